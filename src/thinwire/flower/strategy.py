"""A Flower strategy for any method: thin messages both ways, quorum, refusals by name, and resume."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower

from thinwire.adapters import Adapters
from thinwire.compatibility import check_app
from thinwire.config import FederationConfig, ServerConfig
from thinwire.engine import PLAIN
from thinwire.federation.coordinator import Coordinator, opened
from thinwire.federation.drive import cost, gather
from thinwire.federation.messages import Reply, Request
from thinwire.federation.settings import Rules
from thinwire.federation.setup import Setup
from thinwire.flower.arrays import Layout, layout_of, tensors_of
from thinwire.flower.grid import GridTransport, outgoing, received
from thinwire.identity import of_settings
from thinwire.method import Method
from thinwire.privacy import accountant
from thinwire.privacy.config import PrivacyConfig
from thinwire.storage.directory import RunDirectory
from thinwire.wire import FORMAT


@dataclass
class Strategy(flower.Strategy):
    """`Strategy(method).start(grid, initial_arrays=ArrayRecord(PEFT's state dict), num_rounds=10)`.

    The ClientApps need `mod(method)` with the same method. folder: checkpoints and metrics; a run started again on it
    goes on from its last round, unless its settings have changed (accept_changes: `recipe`, `thinwire`). scale: alpha /
    r of the adapter. privacy: noise on the server's sum or on each upload; a spent budget ends the run. A Flower
    round in which no quorum answered is told, and thinwire's round is played again in the next one. `final` holds the
    arrays after the last round that counted.
    """

    method: Method
    folder: Path | str = "thinwire-run"
    scale: float = 1.0
    seed: int = 0
    federation: FederationConfig = field(default_factory=FederationConfig)
    server: ServerConfig = PLAIN
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    rules: Rules = field(default_factory=Rules)
    evaluate_every: int = 1
    accept_changes: Collection[str] = ()
    coordinator: Coordinator | None = field(default=None, init=False)
    layout: Layout | None = field(default=None, init=False)
    asked: dict[int, Request] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        check_app(self.method, self.federation, self.server, self.privacy)
        if self.privacy.level is not None:
            accountant.library()

    def start(self, grid: Grid, initial_arrays: ArrayRecord, num_rounds: int = 3, *more: Any, **named: Any) -> Any:
        """Flower's own loop over the rounds that are left. Raises: RunStopped if too few nodes come."""
        run = self.open(initial_arrays, num_rounds)
        if run.state.round:
            log(logging.INFO, "thinwire: going on from round %d of %s", run.state.round + 1, self.folder)
        result = super().start(grid, self.final, num_rounds - run.state.round, *more, **named)
        if run.stopped:
            log(logging.ERROR, "thinwire: stopped after round %d: %s", run.state.round, run.stopped)
        elif run.state.round < num_rounds:
            log(logging.ERROR, "thinwire: %d of %d rounds counted; start again to go on", run.state.round, num_rounds)
        result.arrays = self.final
        return result

    def open(self, initial_arrays: ArrayRecord, num_rounds: int) -> Coordinator:
        """The run in the folder, or a new one that begins with these arrays; noise is chosen for so many rounds."""
        layout = self.layout = layout_of(initial_arrays, self.scale)
        directory = RunDirectory(Path(self.folder).expanduser())
        directory.path.mkdir(parents=True, exist_ok=True)
        start = layout.zeros
        setup = Setup(
            method=self.method,
            federation=replace(self.federation, rounds=num_rounds),
            seed=self.seed,
            start=start,
            initial=layout.adapters(tensors_of(initial_arrays)),
            rank=max((module.rank for module in start.modules.values()), default=1),
            directory=directory,
            export=self._export,
            server=self.server,
            privacy=self.privacy,
            rules=self.rules,
            identity={"wire": FORMAT},
            hello={
                "method": repr(self.method),
                "seed": self.seed,
                "scale": self.scale,
                "privacy": asdict(self.privacy),
                "rounds": num_rounds,
                "shapes": {name: list(shape) for name, shape in layout.shapes.items()},
            },
            evaluate_every=self.evaluate_every,
            fingerprints=self._fingerprints(layout),
            accepted=frozenset(self.accept_changes),
        )
        self.coordinator = opened(setup, lambda text: log(logging.INFO, "thinwire: %s", text))
        return self.coordinator

    def _fingerprints(self, layout: Layout) -> dict[str, Any]:
        """What the run is computed from, as far as the strategy knows."""
        return of_settings(
            {
                "method": {"name": self.method.name, **asdict(self.method)},
                "lora": {"scale": self.scale, "shapes": sorted(layout.shapes.items())},
                "federation": asdict(self.federation),
                "server": asdict(self.server),
                "privacy": asdict(self.privacy),
                "run": {"seed": self.seed},
            }
        )

    def _export(self, adapters: Adapters, folder: Path) -> None:
        """Flower users save `result.arrays` themselves."""

    @property
    def run(self) -> Coordinator:
        assert self.coordinator is not None, "start or open comes first"
        return self.coordinator

    @property
    def final(self) -> ArrayRecord:
        """The global adapter as the user's arrays."""
        assert self.layout is not None
        return self.layout.arrays(self.run.state.server.adapters)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Who takes part, and for each the changes it missed or its state."""
        gather(self.run, GridTransport(grid))
        self.run.open_record()
        self.asked = {} if self.run.stops() else self.run.ask()
        return self._messages(server_round, config)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next version, checkpointed; (None, None) if there was no quorum, or privacy has ended the run."""
        found = received(replies)
        if self.run.stopped:
            return None, None
        if not self.run.take(self.asked, found):
            self.run.note(f"round {self.run.state.round + 1}: no quorum; it is played again")
            return None, None
        self.run.save()
        if words := cost(self.run):
            self.run.note(f"round {self.run.state.round} counted{words}")
        return self.final, mean_of(found.values())

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The newest version to everyone who is there, after every `evaluate_every` rounds."""
        self.asked = self.run.ask_scores("evaluate") if self.run.due else {}
        return self._messages(server_round, config)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The nodes' metrics, weighted by their num-examples."""
        return mean_of(self.run.answers(self.asked, received(replies)).values())

    def summary(self) -> None:
        log(logging.INFO, "\tthinwire: %s, run %s in %s", self.method, self.run.run, self.folder)

    def _messages(self, server_round: int, config: ConfigRecord) -> list[Message]:
        messages = outgoing(self.asked)
        for message in messages:
            message.content["config"] = ConfigRecord({**config, "server-round": server_round})
        return messages


def mean_of(replies: Iterable[Reply | str]) -> MetricRecord | None:
    """The mean of every metric over the replies that have it, weighted by num-examples; None without any."""
    found = [reply.facts["metrics"] for reply in replies if isinstance(reply, Reply) and "metrics" in reply.facts]
    names = sorted({name for metrics in found for name in metrics} - {"num-examples"})
    means = {}
    for name in names:
        pairs = [(metrics.get("num-examples", 1.0), metrics[name]) for metrics in found if name in metrics]
        total = sum(weight for weight, _ in pairs)
        means[name] = sum(weight * value for weight, value in pairs) / total if total else float("nan")
    return MetricRecord(means) if means else None
