"""Training with example-level privacy: every example's gradient is clipped, their sum is noised (DP-SGD).

Abadi et al., Deep Learning with Differential Privacy, CCS 2016, arXiv:1607.00133.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thinwire.adapters import Key
from thinwire.data import Example
from thinwire.privacy.noise import Noise, scaled, square
from thinwire.randomness import derive, seeded_mask
from thinwire.settings import ConfigError
from thinwire.training.batches import targets_of

SeededLoss = Callable[[Example, int], Tensor]
"""The loss of one example, where whatever is drawn at random follows from a seed."""


@dataclass(frozen=True)
class Draw:
    """One step's batch: each of `among` examples by itself with probability `expected / among`.

    names: of the client, the round and the step; batch and noise follow from them and the noise's seed.
    """

    noise: Noise
    names: tuple[int, ...]
    expected: int
    among: int

    @property
    def places(self) -> list[int]:
        """Which examples are drawn, ascending; there may be none."""
        rate = self.expected / self.among
        return seeded_mask(derive(self.noise.seed, "batch", *self.names), self.among, rate).tolist()

    def seed(self, place: int, purpose: str) -> int:
        """What an example draws by itself in this step, whoever else was drawn: as secret as the noise."""
        return derive(self.noise.seed, purpose, *self.names, place)

    def gradients(
        self, live: Mapping[Key, nn.Parameter], examples: Mapping[int, Example], loss_of: SeededLoss
    ) -> float:
        """Set the gradients to `(sum of clipped gradients + noise) / expected`; the mean loss of the examples, or 0.

        examples: by place. One backward pass an example, each under a seed of its own, so that no
        dropout depends on who else was drawn. An example whose gradient is not finite contributes nothing; its loss
        is left out, and is nan only if all are. The loss is what was measured, without noise.
        """
        total = {key: torch.zeros_like(value, dtype=torch.float64) for key, value in live.items()}
        losses = []
        for place, example in examples.items():
            if not targets_of(example):
                continue
            loss = loss_of(example, self.seed(place, "dropout"))
            losses.append(float(loss.detach()))
            found = torch.autograd.grad(loss, list(live.values()), allow_unused=True)
            present = {key: gradient for key, gradient in zip(live, found, strict=True) if gradient is not None}
            share = self.noise.share(sum(square(gradient) for gradient in present.values()))
            for key, gradient in present.items():
                total[key] += scaled(gradient, share)
        for key, value in live.items():
            noisy = self.noise.onto(total[key], "gradient", *self.names, *key)
            value.grad = (noisy / self.expected).to(value.dtype)
        finite = [loss for loss in losses if math.isfinite(loss)]
        if not losses:
            return 0.0
        return sum(finite) / len(finite) if finite else math.nan


def check_apart(network: nn.Module, examples: Sequence[Example], loss_of: SeededLoss) -> None:
    """Each example's pass is its own in training mode, as clipping it by itself takes for granted. Leaves no trace.

    Raises: ConfigError for a module that keeps something of an example for the next one, as batch normalisation does,
    or that draws from another generator than torch's.
    """
    able = [example for example in examples if targets_of(example)]
    before = {name: value.clone() for name, value in network.named_buffers()}
    losses = []
    with torch.random.fork_rng([value.device for value in network.parameters() if value.is_cuda][:1]), torch.no_grad():
        for example in (able[0], able[-1], able[0]):
            losses.append(float(loss_of(example, 0)))
    after = dict(network.named_buffers())
    changed = sorted(name for name in after if name not in before or not torch.equal(after[name], before[name]))
    for name in changed:
        if name in before:
            after[name].copy_(before[name])
    if changed:
        where = changed[0].rpartition(".")[0]
        kind = type(network.get_submodule(where)).__name__
        raise ConfigError(
            f"privacy.level = 'example': {where} ({kind}) keeps something of each example for the next ones; "
            "allowed are models without such modules (a resnet: model.norm = group)"
        )
    if math.isfinite(losses[0]) and not math.isclose(losses[0], losses[2], rel_tol=1e-4):
        raise ConfigError(
            f"privacy.level = 'example': {type(network).__name__} gives an example another loss under the same seed, "
            "so it draws from a generator of its own; allowed is a model that draws from torch's alone"
        )
