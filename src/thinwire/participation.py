"""Rounds, and who takes part in them: the section [federation] of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from thinwire.settings import setting


@dataclass(frozen=True)
class FederationConfig:
    """Rounds and who takes part."""

    rounds: int = setting(10, "communication rounds", low=1)
    clients_per_round: int | None = setting(None, "clients sampled in each round; none: all", low=1)
    sampling: str = setting(
        "fixed", "so many clients, or each by itself (as many on average)", choices=("fixed", "poisson")
    )
    drop: float = setting(0.0, "probability that a client drops out in mid-round", low=0, below=1)
    first_round: dict[str, int] = setting(doc="client -> the round in which it joins, from 1", factory=dict, low=1)  # noqa: RUF009
    weights: str = setting("uniform", "weights p_k of the clients", choices=("uniform", "examples"))
    ranks: tuple[int, ...] = setting((), "tiers of rank: client i has the i-th, again from the front at the end", low=1)
    rank_of: dict[str, int] = setting(doc="client -> rank of its own", factory=dict, low=1)  # noqa: RUF009
    capability: str | None = setting(None, "package.module:function that gives a client's rank, called with the client")
    densities: tuple[float, ...] = setting((), "tiers of density, likewise", above=0, high=1)
    density_of: dict[str, float] = setting(  # noqa: RUF009
        doc="client -> density of its own", factory=dict, above=0, high=1
    )
