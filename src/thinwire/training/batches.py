"""Examples become batches: an order that is a pure function of (seed, position), and padding on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.data import Example
from thinwire.randomness import derive, permutation

IGNORED = -100
"""The label where no loss is taken."""

PASS_COST = {"cpu": 384}
"""Padding tokens that cost as much as one more forward and backward pass, by device type; absent: always more."""


@dataclass(frozen=True)
class Batch:
    """Padded examples, and where the loss is taken.

    Shapes: tokens (B, T) and mask (B, T); positions (N,), flat indices into B * T whose output predicts targets (N,);
    rows (N,), the example of each position.
    """

    tokens: Tensor
    mask: Tensor
    positions: Tensor
    targets: Tensor
    rows: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))


def collate(examples: Sequence[Example]) -> Batch:
    """Pad to the longest with token 0, which reaches no loss; t predicts t + 1, so the last token is not fed."""
    width = max(len(example.tokens) for example in examples)
    tokens = torch.zeros((len(examples), width), dtype=torch.long)
    labels = torch.full((len(examples), width), IGNORED, dtype=torch.long)
    mask = torch.zeros((len(examples), width), dtype=torch.long)
    for row, example in enumerate(examples):
        size = len(example.tokens)
        tokens[row, :size] = torch.tensor(example.tokens)
        labels[row, :size] = torch.tensor(example.labels)
        mask[row, :size] = 1
    tokens, mask, targets = tokens[:, : width - 1], mask[:, : width - 1], labels[:, 1:].reshape(-1)
    positions = (targets != IGNORED).nonzero()[:, 0]
    return Batch(tokens, mask, positions, targets[positions], positions // max(width - 1, 1))


def targets_of(example: Example) -> int:
    """Tokens of an example on which the loss is taken; its first token has no predecessor and does not count."""
    return sum(label != IGNORED for label in example.labels[1:])


def stream(seed: int, count: int, first: int, number: int) -> list[int]:
    """Places `first .. first + number` in the endless order of `count` examples: one permutation after another."""
    taken: list[int] = []
    for epoch in range(first // count, (first + number - 1) // count + 1):
        order = permutation(derive(seed, "epoch", epoch), count)
        low = max(first - epoch * count, 0)
        taken += order[low : min(first + number - epoch * count, count)]
    return taken


def split_by_length(examples: Sequence[Example], batch: int, spare: int | None = None) -> list[list[Example]]:
    """The examples in parts of at most `batch`, longest first, so that little padding is computed; ties in order.

    With `spare`, a part is cut further wherever that saves as many padding tokens (see `PASS_COST`).
    """
    ordered = sorted(examples, key=lambda example: -len(example.tokens))
    parts = [ordered[low : low + batch] for low in range(0, len(ordered), batch)]
    return parts if spare is None else [piece for part in parts for piece in _cut(part, spare)]


def _cut(part: list[Example], spare: int) -> list[list[Example]]:
    """A part, longest first, cut where the most padding is saved, again while that is `spare` tokens or more."""
    saved = [(len(part[0].tokens) - len(example.tokens)) * (len(part) - k) for k, example in enumerate(part)]
    best = max(range(len(part)), key=saved.__getitem__)
    if best == 0 or saved[best] < spare:
        return [part]
    return _cut(part[:best], spare) + _cut(part[best:], spare)
