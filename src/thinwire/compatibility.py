"""What goes together: a method's parts with optimizers, privacy, ranks, densities, sites; and why the rest does not.

The one answer for a recipe, a simulation, a server across sites and `thinwire.flower.Strategy`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from thinwire.adapters import Adapters
from thinwire.config import FederationConfig, check_sections
from thinwire.lowrank import LowRank
from thinwire.method import Client, Context, Method
from thinwire.methods import METHODS
from thinwire.parts import ASKED
from thinwire.privacy.config import PrivacyConfig
from thinwire.server_optimizer import PLAIN, ServerConfig
from thinwire.settings import ConfigError, unknown
from thinwire.training.config import TrainConfig

MERGING = {
    "central noise": "what it broadcasts are the uploads themselves, side by side",
    "state dict": "it adds to the base itself, which a state dict cannot carry",
}
"""What no rule that merges can be combined with, and why."""

INSTEAD = {
    "central noise": "; allowed is local",
    "client privacy": "; allowed is example",
    "sites": "; allowed are the others",
}
"""What is allowed in place of some things that a run asks for."""


def check_together(
    method: Method,
    federation: FederationConfig,
    server: ServerConfig = PLAIN,
    privacy: PrivacyConfig | None = None,
    train: TrainConfig | None = None,
) -> None:
    """Raises: ConfigError for settings that make no sense with each other or with the method, with the reason."""
    privacy, train = privacy or PrivacyConfig(), train or TrainConfig()
    check_sections(federation, server, privacy)
    for wanted, words in asked(server, privacy, train):
        refuse(method, wanted, words)
    if (federation.ranks or federation.rank_of or federation.capability) and not takes_ranks(method):
        others = able(takes_ranks)
        raise ConfigError(f"federation.ranks: {method.name} needs the same rank everywhere; allowed with {others}")
    if (federation.densities or federation.density_of) and not takes_densities(method):
        others = able(takes_densities)
        raise ConfigError(f"federation.densities: {method.name} has no density of its own; allowed with {others}")


def check_across(
    method: Method,
    federation: FederationConfig,
    server: ServerConfig = PLAIN,
    privacy: PrivacyConfig | None = None,
    train: TrainConfig | None = None,
) -> None:
    """The same for a run across sites, where clients are known only as they come. Raises: ConfigError."""
    refuse(method, "sites", f"method.name = {method.name!r}")
    check_together(method, federation, server, privacy, train)
    draws = federation.sampling == "fixed" and federation.clients_per_round is not None
    if privacy and privacy.central and draws:
        check_no_memory(method, bool(train and train.keep_optimizer))


def check_app(
    method: Method, federation: FederationConfig, server: ServerConfig = PLAIN, privacy: PrivacyConfig | None = None
) -> None:
    """The same for a Flower user's app, which trains by itself and passes a state dict. Raises: ConfigError."""
    check_across(method, federation, server, privacy)
    refuse(method, "state dict", f"method {method.name}")
    if privacy and privacy.level == "example":
        raise ConfigError(
            "privacy.level = 'example': every example's gradient is clipped and noised within the training, which is "
            "the app's own; allowed is client"
        )


def check_no_memory(method: Method, keep_optimizer: bool = False) -> None:
    """What a client keeps depends on the rounds it was drawn in; a sample of fixed size does not hide these.

    Raises: ConfigError if clients keep anything between rounds.
    """
    keeps = {
        "error feedback": bool(method.feedback),
        "a memory of the method": method.personal is not None,
        "train.keep_optimizer": keep_optimizer,
    }
    if found := [what for what, kept in keeps.items() if kept]:
        raise ConfigError(
            f"federation.sampling = 'fixed': with privacy.noise = central, clients must keep nothing between rounds, "
            f"and they keep {found[0]}; allowed is federation.sampling = poisson, or all clients in every round"
        )


def asked(server: ServerConfig, privacy: PrivacyConfig, train: TrainConfig) -> Iterator[tuple[str, str]]:
    """What the settings ask of a method's parts (a key of `ASKED`), each with the setting that does."""
    if server.optimizer != "none":
        yield "server optimizer", f"server.optimizer = {server.optimizer!r}"
    if train.keep_optimizer:
        yield "kept optimizer", "train.keep_optimizer = true"
    if train.proximal:
        yield "proximal", f"train.proximal = {train.proximal}"
    if privacy.level == "client":
        yield "client privacy", "privacy.level = 'client'"
    if privacy.central:
        yield "central noise", "privacy.noise = 'central'"


def refuse(method: Method, wanted: str, words: str) -> None:
    """Raises: ConfigError if the method cannot do what is wanted; `words` is the setting that asks for it."""
    if reason := reasons(method).get(wanted):
        raise ConfigError(f"{words}: not with {method.name}: {reason}{INSTEAD.get(wanted, '')}")


def reasons(method: Method) -> Mapping[str, str]:
    """What the method's parts cannot be combined with, and why. Raises: ConfigError for a key beside `ASKED`."""
    merging = MERGING if method.rule.merges else {}
    found = {**merging, **method.exchange.cannot, **method.rule.cannot}
    for wanted in found:
        if wanted not in ASKED:
            raise unknown(f"method {method.name}: cannot {wanted!r}", wanted, ASKED)
    return found


def takes_ranks(method: Method) -> bool:
    """Whether clients may have ranks of their own: whether its rule gives a lower rank less."""
    pair = Adapters({"module": LowRank(torch.ones(1, 2), torch.ones(2, 1))})
    return method.rule.cut(pair, 1).modules["module"].rank == 1


def takes_densities(method: Method) -> bool:
    """Whether a client's own density changes what it uploads."""
    thick, thin = (Client("client", 0, 1, density=density) for density in (1.0, 0.5))
    return method.up(thick, Context(0, 0)) != method.up(thin, Context(0, 0))


def able(what: Callable[[Method], bool]) -> str:
    """The methods that can, as they are by default."""
    return ", ".join(sorted(name for name, method in METHODS.items() if what(method())))
