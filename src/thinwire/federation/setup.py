"""What a server's run across sites is told once, by a recipe or by a Flower user's strategy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thinwire.adapters import Adapters
from thinwire.config import FederationConfig, ServerConfig
from thinwire.engine import PLAIN
from thinwire.evaluation.figures import WRITTEN
from thinwire.federation.settings import Rules
from thinwire.identity import Identity
from thinwire.method import Method
from thinwire.privacy.config import PrivacyConfig
from thinwire.storage.directory import RunDirectory


@dataclass(frozen=True)
class RunFacts:
    """What a summary says of a recipe's run. base: its name."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    task: str = "text"
    classes: tuple[str, ...] = ()
    base: str | None = None


@dataclass(frozen=True)
class Setup:
    """What does not change over a run. identity: what every site must report; hello: the recipe sites are sent.

    rank: the largest inner rank of a client. metrics: the summary's name of a figure -> the field of Scores.

    fingerprints: what the run is computed from, as far as the server knows; accepted: changes allowed.

    export: writes adapters in PEFT's format to a folder.
    """

    method: Method
    federation: FederationConfig
    seed: int
    start: Adapters
    rank: int
    directory: RunDirectory
    export: Callable[[Adapters, Path], object]
    initial: Adapters | None = None
    server: ServerConfig = PLAIN
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    rules: Rules = field(default_factory=Rules)
    identity: Mapping[str, Any] = field(default_factory=dict)
    fingerprints: Identity = field(default_factory=dict)
    accepted: frozenset[str] = frozenset()
    hello: Mapping[str, Any] = field(default_factory=dict)
    evaluate_every: int = 0
    facts: RunFacts = field(default_factory=RunFacts)
    metrics: Mapping[str, str] = field(default_factory=lambda: WRITTEN)
