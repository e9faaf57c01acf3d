"""Scores of a model on examples: loss, token accuracy and exact match, in one teacher-forced pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from thinwire import peft_bridge
from thinwire.adapters import Adapters
from thinwire.data import Example
from thinwire.models import Base
from thinwire.training.batches import PASS_COST, collate, split_by_length, targets_of
from thinwire.training.forward import logits_at


@dataclass(frozen=True)
class Scores:
    """Over the response tokens: loss in nats per token, share right; `exact` is the share of responses wholly right."""

    loss: float
    exact: float
    token_accuracy: float
    tokens: int
    examples: int


@torch.no_grad()
def evaluate(base: Base, model: Any, adapters: Adapters | None, examples: Sequence[Example], batch: int = 32) -> Scores:
    """Scores of `adapters` on the base, or of the base alone for None. Leaves `adapters` in the model.

    Exact match is that of greedy decoding, without decoding: greedy decoding writes the response if and only if the
    largest logit is the right one at each of its positions, given the right ones before.
    Raises: ValueError if no example has a response.
    """
    examples = [example for example in examples if targets_of(example)]
    if not examples:
        raise ValueError("no example has a response to score")
    if adapters is not None:
        peft_bridge.write(model, adapters)
    network = peft_bridge.network(model).eval()
    nats, right, exact, tokens = 0.0, 0, 0, 0
    with peft_bridge.disabled(model) if adapters is None else nullcontext():
        for part in split_by_length(examples, batch, PASS_COST.get(base.device.type)):
            data = collate(part).to(base.device)
            logits = logits_at(network, data)
            hit = logits.argmax(dim=1) == data.targets
            nats += float(nn.functional.cross_entropy(logits, data.targets, reduction="sum"))
            right += int(hit.sum())
            exact += len(part) - len(data.rows[~hit].unique())
            tokens += len(data.targets)
    loss = nats / tokens if math.isfinite(nats) else math.nan
    return Scores(loss, exact / len(examples), right / tokens, tokens, len(examples))
