"""Who the clients are to a method: their ranks and densities from the recipe."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from thinwire.method import Client
from thinwire.participation import FederationConfig
from thinwire.settings import ConfigError, listed


def clients_of(config: FederationConfig, sizes: Mapping[str, int], largest: int) -> list[Client]:
    """The clients in the order of their names, with their own ranks and densities. sizes: client -> examples.

    Raises: ConfigError for a client that does not exist, a rank above `largest`, a capability that cannot be called.
    """
    for field in ("rank_of", "density_of", "first_round"):
        if missing := sorted(set(getattr(config, field)) - set(sizes)):
            names = listed(sorted(sizes))
            raise ConfigError(f"federation.{field}.{missing[0]}: no such client; allowed are {names}")
    plain = [Client(name, index, sizes[name]) for index, name in enumerate(sorted(sizes))]
    capability = None if config.capability is None else _function(config.capability)
    clients = [
        replace(client, rank=_rank(config, client, capability), density=_density(config, client)) for client in plain
    ]
    for client in clients:
        if client.rank is not None and not 1 <= client.rank <= largest:
            raise ConfigError(f"rank {client.rank} of client {client.name}: allowed is 1 to lora.rank = {largest}")
    return clients


def _rank(config: FederationConfig, client: Client, capability: Callable[[Client], Any] | None) -> int | None:
    if client.name in config.rank_of:
        return config.rank_of[client.name]
    if capability is not None:
        rank = capability(client)
        if not isinstance(rank, int) or isinstance(rank, bool):
            raise ConfigError(f"federation.capability = {config.capability!r}: gave {rank!r}; allowed is an integer")
        return rank
    return _tier(config.ranks, client)


def _density(config: FederationConfig, client: Client) -> float | None:
    return config.density_of.get(client.name, _tier(config.densities, client))


def _tier(tiers: Sequence[Any], client: Client) -> Any:
    return tiers[client.index % len(tiers)] if tiers else None


def _function(name: str) -> Callable[[Client], Any]:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"federation.capability = {name!r}: {error}; allowed is package.module:function") from None
    if not callable(found):
        raise ConfigError(f"federation.capability = {name!r}: not a function; allowed is package.module:function")
    return found
