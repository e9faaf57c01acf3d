"""What releases cost: (epsilon, delta) by Google's dp-accounting, and the noise that a stated epsilon asks for."""

from __future__ import annotations

import importlib.metadata
import logging
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from thinwire.settings import ConfigError

ADD_OR_REMOVE, REPLACE = "add or remove one", "replace one"
"""Neighbouring data sets: one record more or less (a contribution of norm `clip`), or one exchanged (twice that)."""

Counts = Mapping[tuple[float, int], int]
"""How often which share of the records was drawn: (expected number drawn, of how many) -> releases."""

PRECISION = 1e-3
"""Relative width to which a calibrated noise multiplier is known; the larger end is taken."""

GRID = 1e-3
"""Step of the privacy losses, rounded so that epsilon is never too small: 1e-3 too large, in a tenth of the time."""

LOOSE = 20.0
"""Where the Renyi bound lies above it, it is taken: such an epsilon promises little, and the exact one takes long."""


def epsilon(counts: Counts, multiplier: float, delta: float, relation: str) -> float:
    """The epsilon at `delta` of noised sums with `multiplier * clip` as standard deviation; infinity without noise.

    Records drawn each by itself (Poisson; ADD_OR_REMOVE) or all: privacy loss distributions. Records drawn as a set of
    fixed size without replacement (REPLACE): Renyi divergences (Wang, Balle and Kasiviswanathan, AISTATS 2019).
    Raises: ConfigError if dp-accounting is not installed.
    """
    done = tuple(sorted((key, count) for key, count in counts.items() if count and key[0]))
    if not done:
        return 0.0
    return _epsilon(done, multiplier, delta, relation) if multiplier else math.inf


def name(fixed_samples: bool) -> str:
    """The accountant and its version."""
    kind = "Renyi divergences" if fixed_samples else "privacy loss distributions"
    return f"{kind}, dp-accounting {importlib.metadata.version('dp-accounting')}"


def calibrated(cost: Callable[[float], float], target: float) -> float:
    """The smallest noise multiplier, but for `PRECISION`, whose cost is no more than `target`.

    Raises: ConfigError if none below a million is enough.
    """
    high = 1.0
    while cost(high) > target:
        high *= 2
        if high > 1e6:
            raise ConfigError(f"privacy.epsilon = {target}: no noise is enough for it; allowed is a larger one")
    low = high / 2
    while low > 1e-3 and cost(low) <= target:
        low, high = low / 2, low
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) <= target else (middle, high)
    return high


@lru_cache(maxsize=4096)
def _epsilon(
    releases: tuple[tuple[tuple[float, int], int], ...], multiplier: float, delta: float, relation: str
) -> float:
    dp = library()
    neighbours = dp.NeighboringRelation
    noise = dp.dp_event.GaussianDpEvent(multiplier / 2 if relation == REPLACE else multiplier)
    fixed = relation == REPLACE and any(drawn < among for (drawn, among), _ in releases)

    def spent(accountant: Any) -> float:
        for (drawn, among), count in releases:
            accountant.compose(_release(dp.dp_event, drawn, among, noise, fixed), count)
        return float(accountant.get_epsilon(delta))

    if fixed:
        return spent(dp.rdp.RdpAccountant(neighboring_relation=neighbours.REPLACE_ONE))
    bound = spent(dp.rdp.RdpAccountant())
    return bound if bound > LOOSE else min(bound, spent(dp.pld.PLDAccountant(neighbours.ADD_OR_REMOVE_ONE, GRID)))


def _release(event: Any, drawn: float, among: int, noise: Any, fixed: bool) -> Any:
    if drawn >= among:
        return noise
    if fixed:
        return event.SampledWithoutReplacementDpEvent(among, int(drawn), noise)
    return event.PoissonSampledDpEvent(drawn / among, noise)


def library() -> Any:
    """dp-accounting, loaded when it is needed. Raises: ConfigError if it is not installed."""
    try:
        import dp_accounting
        import dp_accounting.pld
        import dp_accounting.rdp
    except ImportError:
        raise ConfigError(
            "privacy: its accountant, dp-accounting, is not installed; allowed is: pip install 'thinwire[privacy]'"
        ) from None
    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns of orders that it leaves out
    return dp_accounting
