"""What a recipe does not say: a site's own settings, `site.toml`, and the server's rules for rounds."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thinwire.config import FederationConfig, Recipe, read_toml
from thinwire.privacy.config import PrivacyConfig, smallest
from thinwire.settings import ConfigError, build, setting, unknown

FILE = "site.toml"
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""A name that may become a folder's."""
HASH = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Rules:
    """When a round counts, and how long the server waits."""

    quorum: int = setting(1, "uploads that must be usable for a round to count; with fewer it is repeated", low=1)
    deadline: float = setting(3600.0, "seconds of a round, after which missing uploads are left out", above=0)
    attempts: int = setting(3, "tries of a round before the run stops", low=1)
    patience: float = setting(600.0, "seconds to wait for a quorum of sites before the run stops", above=0)


@dataclass(frozen=True)
class SiteData:
    """This site's records; the recipe says the template and the length."""

    source: str = setting("generator", "folder or file with this site's records (JSONL, CSV, Parquet), or `generator`")
    clients: tuple[str, ...] = setting((), "domains or files of the source that are this site's; empty: all it has")
    instruction: str = setting("instruction", "column of the question")
    context: str = setting("input", "column of further input, may be absent")
    response: str = setting("response", "column of the answer, on which the loss is taken")
    messages: str | None = setting(None, "column of a conversation; none: found by its name; empty: no column")
    system: str | None = setting(None, "column of the system prompt; none: `system`, beside turns; empty: no column")
    text: str = setting("text", "column of what is classified, and of plain text")
    label: str = setting("label", "column of the class")
    may_change: bool = setting(False, "records may change during a run; else the site refuses to go on with others")


@dataclass(frozen=True)
class SiteModel:
    """This site's copy of the base."""

    name: str = setting("embedded", "`embedded`, a folder, or a name on the hub; its weights must be the server's")


@dataclass(frozen=True)
class SiteLimits:
    """What this site can do where that is less than the recipe asks for; the server keeps to it."""

    rank: int | None = setting(None, "largest rank it trains; none: the recipe's", low=1)
    density: float | None = setting(None, "largest share of entries it is sent and sends", above=0, high=1)


@dataclass(frozen=True)
class SitePrivacy:
    """What this site asks of a recipe before it trains: the server is not trusted with it."""

    level: str | None = setting(
        None, "refuse recipes without noise of this site's own secret at this level", choices=("client", "example")
    )
    budget: float | None = setting(None, "largest epsilon of a run at this site, whatever the recipe allows", above=0)
    delta: float | None = setting(None, "largest delta of a recipe", above=0, below=1)

    def within(self, asked: PrivacyConfig) -> PrivacyConfig:
        """The recipe's privacy with this site's budget. Raises: ConfigError if it promises less than is asked here."""
        if self.level is not None and (asked.level, asked.own, asked.seed) != (self.level, True, "system"):
            noise = " and noise = local" if self.level == "client" else ""
            raise ConfigError(
                f"privacy.level = {asked.level!r}, noise = {asked.noise!r}, seed = {asked.seed!r}: "
                f"this site allows level = {self.level}{noise} with seed = system only"
            )
        if not asked.own:
            return asked
        if self.delta is not None and asked.delta is not None and asked.delta > self.delta:
            raise ConfigError(f"privacy.delta = {asked.delta}: this site allows at most {self.delta}")
        own = asked.epsilon if asked.budget is None else asked.budget
        return dataclasses.replace(asked, budget=smallest(own, self.budget))


@dataclass(frozen=True)
class SiteTrainer:
    """The resident trainer."""

    idle: float = setting(900.0, "seconds without a message after which the trainer ends", above=0)
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    threads: int | None = setting(None, "CPU threads; none: the recipe's", low=1)


@dataclass(frozen=True)
class Site:
    """`site.toml`, checked. folder: where it lies, and where the site keeps its state; federation: its name."""

    folder: Path
    name: str
    federation: str = "federation"
    data: SiteData = field(default_factory=SiteData)
    model: SiteModel = field(default_factory=SiteModel)
    limits: SiteLimits = field(default_factory=SiteLimits)
    privacy: SitePrivacy = field(default_factory=SitePrivacy)
    trainer: SiteTrainer = field(default_factory=SiteTrainer)
    methods: Mapping[str, str] = field(default_factory=dict)

    def recipe(self, server: Recipe) -> Recipe:
        """The server's recipe with this site's data, base and device: the server can name no file here, and no code
        but what the site's owner allows.

        Raises: ConfigError if it promises less privacy than this site asks for, needs code that it does not allow, or
        leaves classes to be read from the records, as their names and number would leave the site.
        """
        if server.data.task != "text" and not server.data.labels:
            raise ConfigError("data.labels is missing: across sites the recipe names all classes")
        return dataclasses.replace(
            server,
            model=dataclasses.replace(server.model, name=self.model.name, adapter=None),
            data=dataclasses.replace(
                server.data,
                source=self.data.source,
                clients=self.data.clients,
                evaluate=(),
                partition="file",
                column=None,
                instruction=self.data.instruction,
                context=self.data.context,
                response=self.data.response,
                messages=self.data.messages,
                system=self.data.system,
                text=self.data.text,
                label=self.data.label,
            ),
            federation=FederationConfig(rounds=server.federation.rounds),
            privacy=self.privacy.within(server.privacy),
            method={**server.method, "name": self.allowed(server.method["name"])},
            run=dataclasses.replace(
                server.run,
                device=self.trainer.device,
                threads=self.trainer.threads or server.run.threads,
                output=None,
            ),
        )

    def allowed(self, name: str) -> str:
        """A method's name as it is found here: thinwire's own, or code that `methods` allows. Raises: ConfigError."""
        from thinwire.methods import shipped
        from thinwire.own_methods import label_of, source_of

        if shipped(name):
            return name
        label = label_of(name)
        if label not in self.methods:
            raise ConfigError(f"method.name = {name!r}: code that this site does not allow: its {FILE} must name it")
        here = str(self.folder / label) if ".py:" in label else label
        source = source_of(here)
        if source is None:
            raise ConfigError(f"method.name = {name!r}: it is not installed at this site")
        if source.sha256 != self.methods[label].lower():
            raise ConfigError(
                f"method.name = {name!r}: the code at this site has SHA-256 {source.sha256}, "
                f"and its {FILE} allows {self.methods[label]} only"
            )
        return here


SECTIONS: dict[str, type] = {
    "data": SiteData,
    "model": SiteModel,
    "limits": SiteLimits,
    "privacy": SitePrivacy,
    "trainer": SiteTrainer,
}


def load_site(folder: Path) -> Site:
    """The settings in `folder/site.toml`; a relative path in them starts at the folder. Raises: ConfigError."""
    values = read_toml(folder / FILE)
    name, federation = values.pop("name", None), values.pop("federation", "federation")
    methods = methods_of(folder / FILE, values.pop("methods", {}))
    for key, value in (("name", name), ("federation", federation)):
        if not isinstance(value, str) or not WORD.fullmatch(value):
            raise ConfigError(
                f"{folder / FILE}: {key} = {value!r}: allowed are letters, digits, dot, dash and underscore"
            )
    for key, value in values.items():
        if key not in SECTIONS:
            raise unknown(f"{folder / FILE}: section [{key}]", key, {*SECTIONS, "methods"})
        if not isinstance(value, dict):
            raise ConfigError(f"{folder / FILE}: {key} = {value!r}: allowed is a table, [{key}]")
    sections: dict[str, Any] = {key: build(cls, values.get(key, {}), key) for key, cls in SECTIONS.items()}
    site = Site(folder.resolve(), name, federation, **sections, methods=methods)
    data = dataclasses.replace(site.data, source=_found(site.folder, site.data.source))
    return dataclasses.replace(
        site, data=data, model=dataclasses.replace(site.model, name=_found(site.folder, site.model.name))
    )


def methods_of(path: Path, values: Any) -> dict[str, str]:
    """Methods that a site's owner allows: name -> SHA-256 of the file with the code. Raises: ConfigError."""
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: methods = {values!r}: allowed is a table, [methods]")
    for name, value in values.items():
        if not isinstance(value, str) or not HASH.fullmatch(value):
            raise ConfigError(f'{path}: methods."{name}" = {value!r}: allowed is its SHA-256, 64 hex digits')
    return values


def _found(folder: Path, name: str) -> str:
    """A path relative to the site's folder, if there is one; else the name as it is."""
    return str(folder / name) if name and (folder / name).exists() else name
