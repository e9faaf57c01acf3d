"""Examples become batches: an order that is a pure function of (seed, position), and padding on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thinwire.data import IGNORED, ClassExample, Example, Picture, TokenClassExample
from thinwire.randomness import derive, permutation

PASS_COST = {"cpu": 384}
"""Padding tokens that cost as much as one more forward and backward pass, by device type; absent: always more."""

SCORED = {"cpu": 3072}
"""Tokens of a forward pass that scores, by device type: more are not faster there."""

ROOM = {"cpu": 1 << 22}
"""Tokens of a forward and backward pass times layers times width, by device type: about 600 MB of what is kept for the
way back. More are not faster there; where a device is not named, `train.batch` alone decides."""


@dataclass(frozen=True)
class Batch:
    """Padded examples, and where the loss is taken.

    Shapes: tokens (B, T) and mask (B, T); positions (N,), flat indices of the model's outputs, which are (B, T) or, one
    an example, (B,); they predict targets (N,); rows (N,), the example of each position. `writes`: the model writes
    text, and its outputs are logits over the vocabulary; otherwise it is a classifier. Images have pixels (B, 3, H, W),
    uint8, and no tokens.
    """

    tokens: Tensor
    mask: Tensor
    positions: Tensor
    targets: Tensor
    rows: Tensor
    writes: bool = True
    pixels: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }
        return Batch(**moved)


def collate(examples: Sequence[Example]) -> Batch:
    """Examples of one kind, padded to the longest with token 0.

    Where text is written, t predicts t + 1, so the last token is not fed, and padding reaches no loss.
    """
    tokens = _padded([example.tokens for example in examples], 0)
    lengths = torch.tensor([len(example.tokens) for example in examples])
    mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long()
    if isinstance(examples[0], ClassExample):
        rows, targets = torch.arange(len(examples)), torch.tensor([example.labels[0] for example in examples])
        pictures = [example.pixels for example in examples if isinstance(example, Picture)]
        pixels = torch.stack(pictures) if pictures else None
        return Batch(tokens, mask, rows, targets, rows, writes=False, pixels=pixels)
    labels = _padded([example.labels for example in examples], IGNORED)
    writes = not isinstance(examples[0], TokenClassExample)
    if writes:
        tokens, mask, labels = tokens[:, :-1], mask[:, :-1], labels[:, 1:]
    targets = labels.reshape(-1)
    positions = (targets != IGNORED).nonzero()[:, 0]
    return Batch(tokens, mask, positions, targets[positions], positions // max(tokens.shape[1], 1), writes)


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """(B, T): the rows, filled up on the right."""
    out = torch.full((len(rows), max(map(len, rows))), value, dtype=torch.long)
    for place, row in enumerate(rows):
        out[place, : len(row)] = torch.tensor(row)
    return out


def targets_of(example: Example) -> int:
    """Targets of an example: its labelled tokens or its class. The first token of a written text does not count."""
    first = 0 if isinstance(example, TokenClassExample | ClassExample) else 1
    return sum(label != IGNORED for label in example.labels[first:])


def stream(seed: int, count: int, first: int, number: int) -> list[int]:
    """Places `first .. first + number` in the endless order of `count` examples: one permutation after another."""
    taken: list[int] = []
    for epoch in range(first // count, (first + number - 1) // count + 1):
        order = permutation(derive(seed, "epoch", epoch), count)
        low = max(first - epoch * count, 0)
        taken += order[low : min(first + number - epoch * count, count)]
    return taken


def room(device: str, config: Any) -> int | None:
    """Tokens of a forward and backward pass of a model on a type of device; None: no limit."""
    text = config.get_text_config()
    size = getattr(text, "num_hidden_layers", 0) * getattr(text, "hidden_size", 0)
    return ROOM[device] // size if device in ROOM and size else None


def split_by_length(
    examples: Sequence[Example], batch: int, spare: int | None = None, tokens: int | None = None
) -> list[list[Example]]:
    """The examples in parts of at most `batch`, longest first, so that little padding is computed; ties in order.

    With `spare`, a part is cut further wherever that saves as many padding tokens (see `PASS_COST`). With `tokens`, a
    part has no more of them, padding included, or is a single example.
    """
    ordered = sorted(examples, key=lambda example: -len(example.tokens))
    parts: list[list[Example]] = []
    at = 0
    while at < len(ordered):
        size = batch if tokens is None else min(batch, tokens // max(1, len(ordered[at].tokens)) or 1)
        parts.append(ordered[at : at + size])
        at += size
    return parts if spare is None else [piece for part in parts for piece in _cut(part, spare)]


def _cut(part: list[Example], spare: int) -> list[list[Example]]:
    """A part, longest first, cut where the most padding is saved, again while that is `spare` tokens or more."""
    saved = [(len(part[0].tokens) - len(example.tokens)) * (len(part) - k) for k, example in enumerate(part)]
    best = max(range(len(part)), key=saved.__getitem__)
    if best == 0 or saved[best] < spare:
        return [part]
    return _cut(part[:best], spare) + _cut(part[best:], spare)
