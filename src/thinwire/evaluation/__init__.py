"""Scores of a model on examples, in one teacher-forced pass: loss, accuracy, exact match, macro F1."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from thinwire import peft_bridge
from thinwire.adapters import Adapters
from thinwire.data import Example
from thinwire.models.base import Base
from thinwire.training.batches import PASS_COST, SCORED, collate, split_by_length, targets_of
from thinwire.training.forward import outcomes_at


@dataclass(frozen=True)
class Scores:
    """Loss in nats per target, share of targets right, share of examples wholly right; macro F1 of a classifier.

    A target is a token of the response or of the text, a tagged token, or an example's class. `macro_f1` is the mean F1
    over the classes that occur among targets or predictions; None where text is written.
    """

    loss: float
    accuracy: float
    exact: float
    macro_f1: float | None
    targets: int
    examples: int


@dataclass(frozen=True)
class Outcomes:
    """What a model made of every target (M in all): the example's index, right class, predicted class, loss in nats."""

    rows: np.ndarray
    truth: np.ndarray
    guess: np.ndarray
    nats: np.ndarray
    classifies: bool

    def by(self, groups: Sequence[str | None]) -> dict[str, Outcomes]:
        """The outcomes of each group of examples; `groups` names every example's, None for those left out."""
        names = sorted({name for name in groups if name is not None})
        number = {name: index for index, name in enumerate(names)}
        group = np.array([number.get(name, -1) if name is not None else -1 for name in groups], np.int64)[self.rows]
        order = np.argsort(group, kind="stable")
        bounds = np.searchsorted(group[order], np.arange(len(names) + 1))
        pieces = {name: order[bounds[index] : bounds[index + 1]] for index, name in enumerate(names)}
        return {name: self._at(piece) for name, piece in pieces.items() if len(piece)}

    def _at(self, places: np.ndarray) -> Outcomes:
        return Outcomes(self.rows[places], self.truth[places], self.guess[places], self.nats[places], self.classifies)

    def scores(self) -> Scores:
        """Their scores. Raises: ValueError if there are none."""
        if not len(self.rows):
            raise ValueError("no example has a response to score")
        right = self.truth == self.guess
        examples = len(np.unique(self.rows))
        return Scores(
            loss=_mean(self.nats),
            accuracy=float(right.mean()),
            exact=1 - len(np.unique(self.rows[~right])) / examples,
            macro_f1=macro_f1(self.truth, self.guess) if self.classifies else None,
            targets=len(self.rows),
            examples=examples,
        )


def join(parts: Sequence[Outcomes]) -> Outcomes:
    """Outcomes on several lists of examples, as on one long list."""
    rows, first = [], 0
    for part in parts:
        rows.append(part.rows + first)
        first += int(part.rows.max(initial=-1)) + 1
    fields = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("truth", "guess", "nats")}
    return Outcomes(np.concatenate(rows), **fields, classifies=parts[0].classifies)


def macro_f1(truth: np.ndarray, guess: np.ndarray) -> float:
    """The mean over the classes that occur of 2 tp / (2 tp + fp + fn); every class weighs the same."""
    size = int(max(truth.max(), guess.max())) + 1
    right = np.bincount(truth[truth == guess], minlength=size)
    either = np.bincount(truth, minlength=size) + np.bincount(guess, minlength=size)
    return float((2 * right[either > 0] / either[either > 0]).mean())


def unheard(examples: int) -> None:
    """Tells nobody."""


def evaluate(base: Base, model: Any, adapters: Adapters | None, examples: Sequence[Example], batch: int = 64) -> Scores:
    """Scores of `adapters` on the base, or of the base alone for None. Leaves `adapters` in the model.

    Raises: ValueError if no example has a target.
    """
    return predict(base, model, adapters, examples, batch).scores()


@torch.no_grad()
def predict(
    base: Base,
    model: Any,
    adapters: Adapters | None,
    examples: Sequence[Example],
    batch: int = 64,
    progress: Callable[[int], None] = unheard,
) -> Outcomes:
    """What `adapters` on the base, or the base alone for None, make of each target. Leaves `adapters` in the model.

    `progress` hears after every forward pass how many examples it has evaluated.

    Exact match is that of greedy decoding, without decoding: greedy decoding writes the response if and only if the
    largest logit is the right one at each of its positions, given the right ones before.
    """
    if adapters is not None:
        peft_bridge.write(model, adapters)
    network = peft_bridge.network(model).eval()
    scored = [index for index, example in enumerate(examples) if targets_of(example)]
    order = sorted(scored, key=lambda index: -len(examples[index].tokens))  # as `split_by_length` sorts
    kind = base.device.type
    parts = split_by_length([examples[index] for index in scored], batch, PASS_COST.get(kind), SCORED.get(kind))
    found: list[tuple[np.ndarray, ...]] = []
    classifies, done = False, 0
    with peft_bridge.disabled(model) if adapters is None else nullcontext():
        for part in parts:
            data = collate(part).to(base.device)
            guess, nats = outcomes_at(network, data)
            rows = np.array(order[done : done + len(part)])[data.rows.cpu().numpy()]
            found.append((rows, *(tensor.cpu().numpy() for tensor in (data.targets, guess, nats))))
            classifies, done = not data.writes, done + len(part)
            progress(len(part))
    none = np.empty(0, np.int64)
    empty = (none, none, none, np.empty(0, np.float32))
    columns = [np.concatenate(column) for column in zip(empty, *found, strict=True)]
    return Outcomes(columns[0], columns[1], columns[2], columns[3], classifies)


def _mean(nats: np.ndarray) -> float:
    total = float(nats.sum(dtype=np.float64))
    return total / len(nats) if math.isfinite(total) else math.nan
