"""Clipping and Gaussian noise: on the server's sum, on what a client offers, or on the gradient of a step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thinwire.adapters import Change
from thinwire.method import Parts
from thinwire.privacy.config import PrivacyConfig
from thinwire.randomness import normal, secret_key


@dataclass(frozen=True)
class Noise:
    """Contributions of L2 norm `clip` at most, and noise of standard deviation `multiplier * clip`, drawn from `seed`.

    place: on the server's "sum", on each client's "upload", or on the "gradient" of each step. The same seed and names
    give the same noise: it is as secret as the seed, and names must never come twice.
    """

    place: str
    clip: float
    multiplier: float
    seed: int

    def again(self, number: int) -> Noise:
        """Fresh noise for one more release under names that came before; number 0: this noise itself."""
        return replace(self, seed=int.from_bytes(secret_key(self.seed, "again", number), "little")) if number else self

    def share(self, square: float) -> float:
        """What a contribution of this squared norm is multiplied by: 1 up to norm `clip`; 0 if it is not finite."""
        if not math.isfinite(square):
            return 0.0
        return 1.0 if square <= self.clip**2 else self.clip / math.sqrt(square)

    def onto(self, tensor: Tensor, *names: str | int) -> Tensor:
        """The float64 tensor with noise in every entry."""
        if not self.multiplier:
            return tensor
        noise = normal(secret_key(self.seed, *names), *tensor.shape)
        return tensor + (self.multiplier * self.clip) * noise.to(tensor.device)

    def onto_change(self, change: Change, *names: str | int) -> Change:
        """What a client may show of its change: clipped as a whole, with noise in every entry; float32."""
        share = self.share(sum(square(tensor) for tensor in change.values()))
        return {key: self.onto(scaled(tensor, share), *names, *key).float() for key, tensor in change.items()}


@dataclass(frozen=True)
class Sum:
    """The server's noised sum: what `noise` bounds, and the fixed number `cohort` by which the sum is divided."""

    noise: Noise
    cohort: float


def noise_of(config: PrivacyConfig, seed: int) -> Noise | None:
    """The noise of a recipe, drawn from `seed`; None without privacy. Multiplier 0 where it is still to be chosen."""
    if config.level is None:
        return None
    assert config.clip is not None
    return Noise(config.place, config.clip, config.noise_multiplier or 0.0, seed)


def square(tensor: Tensor) -> float:
    """Squared L2 norm, summed in float64."""
    return float(tensor.double().square().sum())


def squares(terms: Iterable[Parts]) -> list[float]:
    """Squared norm of each client's term of one module; memory of one term."""
    return [sum(square(tensor) for tensor in term.values()) for term in terms]


def clipped_sum(terms: Sequence[Parts], shares: Sequence[float], start: Parts) -> dict[str, Tensor]:
    """`start + sum_k share_k term_k` in float64, in the order given; terms of share 0 are not read."""
    total = {part: tensor.double() for part, tensor in start.items()}
    for client, share in enumerate(shares):
        if share:
            for part, tensor in terms[client].items():
                total[part] = total[part] + share * tensor.double()
    return total


def scaled(tensor: Tensor, share: float) -> Tensor:
    """`share * tensor` in float64, and zeros for share 0 whatever the tensor holds."""
    return share * tensor.double() if share else torch.zeros_like(tensor, dtype=torch.float64)
