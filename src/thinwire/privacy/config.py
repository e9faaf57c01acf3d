"""The section [privacy] of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, fields

from thinwire.settings import ConfigError, setting

PLACES: dict[tuple[str | None, str | None], str] = {
    ("client", "central"): "sum",
    ("client", "local"): "upload",
    ("example", None): "gradient",
}
"""(level, noise) -> what the noise is put on."""


@dataclass(frozen=True)
class PrivacyConfig:
    """Differential privacy; off unless `level` is given."""

    level: str | None = setting(
        None, "whose part is hidden: a whole client's, or one example's", choices=("client", "example")
    )
    noise: str | None = setting(
        None, "level client: on the server's sum (central) or on each upload (local)", choices=("central", "local")
    )
    clip: float | None = setting(None, "largest L2 norm c of a client's contribution or an example's gradient", above=0)
    noise_multiplier: float | None = setting(None, "standard deviation of the noise over clip", low=0)
    epsilon: float | None = setting(None, "choose the noise for this epsilon over all rounds", above=0)
    delta: float | None = setting(None, "delta of (epsilon, delta); well below 1 / number protected", above=0, below=1)
    budget: float | None = setting(None, "stop before the round that would exceed this epsilon", above=0)
    seed: str = setting(
        "run", "what noise and samples follow from: the run's seed, or a secret", choices=("run", "system")
    )

    @property
    def place(self) -> str:
        """What the noise is put on: the server's "sum", each "upload", or the "gradient" of each step; "": nothing."""
        return PLACES.get((self.level, self.noise), "")

    @property
    def central(self) -> bool:
        """Whether the server puts noise on its sum."""
        return self.place == "sum"

    @property
    def local(self) -> bool:
        """Whether each client puts noise on what it uploads."""
        return self.place == "upload"

    @property
    def own(self) -> bool:
        """Whether each client puts on noise of its own: on its uploads, or on its gradients."""
        return self.place in ("upload", "gradient")


def smallest(*limits: float | None) -> float | None:
    """The smallest of the limits that are given; None without any."""
    return min((limit for limit in limits if limit is not None), default=None)


def check(config: PrivacyConfig, weights: str) -> None:
    """What no single field can say; `weights` is federation.weights. Raises: ConfigError."""
    given = [spec.name for spec in fields(config) if getattr(config, spec.name) != spec.default]
    if config.level is None:
        if given:
            value = getattr(config, given[0])
            raise ConfigError(f"privacy.{given[0]} = {value!r}: allowed with privacy.level = client or example only")
        return
    for name in ("clip", "delta", *(["noise"] if config.level == "client" else [])):
        if getattr(config, name) is None:
            raise ConfigError(f"privacy.{name} is missing: privacy.level = {config.level!r} needs it")
    if config.level == "example" and config.noise is not None:
        raise ConfigError(f"privacy.noise = {config.noise!r}: allowed with privacy.level = client only")
    if (config.noise_multiplier is None) == (config.epsilon is None):
        raise ConfigError("privacy.noise_multiplier and privacy.epsilon: allowed is one of the two")
    if config.central and weights != "uniform":
        raise ConfigError(f"federation.weights = {weights!r}: with privacy.noise = central allowed is uniform only")
