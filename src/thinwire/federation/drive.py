"""A run across sites from start to adapter: the loop around a coordinator, for any transport."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from thinwire.engine.rounds import AllUploadsRefused, RunStopped
from thinwire.evaluation import Scores
from thinwire.evaluation.figures import Figures, mean_scores
from thinwire.federation.coordinator import Coordinator
from thinwire.federation.members import Replies
from thinwire.federation.messages import Request
from thinwire.peft_bridge import ExportedAdapter
from thinwire.storage.directory import write_json
from thinwire.storage.state import result_of
from thinwire.storage.summary import About, summarise

ScoresBySite = Mapping[str, Mapping[str, Scores]]
"""By site, then by domain."""


class Transport(Protocol):
    """Carries messages to nodes and back."""

    def nodes(self) -> Iterable[int]:
        """Nodes that can be asked now."""

    def exchange(self, requests: Mapping[int, Request], seconds: float) -> Replies:
        """Replies by node, at the latest after `seconds`; a node without one is absent, or says why."""


def drive(coordinator: Coordinator, transport: Transport, rounds: int) -> dict[str, Any]:
    """Play all rounds; the summary, also written to the run directory. Raises: RunStopped; a checkpoint is kept."""
    setup, began = coordinator.setup, time.perf_counter()
    gather(coordinator, transport)
    coordinator.open_record()
    before = scores(coordinator, transport, "test") if coordinator.state.round == 0 else {}
    while coordinator.state.round < rounds or coordinator.due:
        if coordinator.due:
            coordinator.evaluate(scores(coordinator, transport, "evaluate"))
            continue
        if why := coordinator.stops():
            coordinator.note(f"stopped after round {coordinator.state.round}: {why}")
            break
        if play(coordinator, transport):
            coordinator.save()
            coordinator.note(f"round {coordinator.state.round}/{rounds} counted{cost(coordinator)}")
    gather(coordinator, transport)
    export = setup.export(result_of(setup.method, coordinator.state), setup.directory.adapter)
    after = scores(coordinator, transport, "finish")
    summary = summarise(about(coordinator, export), coordinator.state, figures(before, after))
    summary |= {"run": coordinator.run, "sites": sorted(coordinator.members.examples)}
    summary["directory"] = str(setup.directory.path)
    summary["seconds"]["total"] = time.perf_counter() - began
    write_json(setup.directory.path / "summary.json", summary)
    return summary


def gather(coordinator: Coordinator, transport: Transport) -> None:
    """Say hello until there is a quorum of sites. Raises: RunStopped after the rules' patience."""
    rules, members = coordinator.setup.rules, coordinator.members
    until = time.monotonic() + rules.patience
    while True:
        hello = members.greet(transport.nodes(), coordinator.state.round)
        if hello:
            coordinator.meet(transport.exchange(hello, rules.deadline))
        if len(members.nodes) >= rules.quorum:
            return
        if time.monotonic() > until:
            here = ", ".join(sorted(members.nodes)) or "none"
            raise RunStopped(
                f"round {coordinator.state.round + 1}: after {rules.patience:g} s there are {len(members.nodes)} "
                f"sites ({here}); the quorum is {rules.quorum}"
            )
        time.sleep(min(1.0, rules.patience / 10))


def play(coordinator: Coordinator, transport: Transport) -> bool:
    """One round that counts; False if privacy ends the run instead.

    An attempt in which a site's budget turned out to be spent is not one of the rules'; the others may be enough.
    Raises: RunStopped if none of the rules' attempts had a quorum, Diverged.
    """
    rules, attempt = coordinator.setup.rules, 0
    while attempt < rules.attempts:
        gather(coordinator, transport)
        asked, out = coordinator.ask(), len(coordinator.costs.out)
        if coordinator.take(asked, transport.exchange(asked, rules.deadline)):
            return True
        if coordinator.stops():
            return False
        if len(coordinator.costs.out) > out:
            coordinator.note(f"round {coordinator.state.round + 1}: played again without those whose budget is spent")
            continue
        attempt += 1
        coordinator.note(f"round {coordinator.state.round + 1}: no quorum in attempt {attempt}")
    failed = f"round {coordinator.state.round + 1}: no quorum of {rules.quorum} in {rules.attempts} attempts"
    raise AllUploadsRefused(failed)


def scores(coordinator: Coordinator, transport: Transport, task: str) -> dict[str, dict[str, Scores]]:
    """Scores by site and domain of the adapters of now; with "finish" every site writes its adapter, too."""
    asked = coordinator.ask_scores(task)
    return coordinator.take_scores(asked, transport.exchange(asked, coordinator.setup.rules.deadline))


def cost(coordinator: Coordinator) -> str:
    """What privacy has cost so far, in words; empty without it."""
    spent = coordinator.costs.spent
    return f", epsilon {spent['epsilon']:.3g} (delta {spent['delta']:.0e})" if spent else ""


def about(coordinator: Coordinator, export: object) -> About:
    """What the summary says of the run besides its figures."""
    setup = coordinator.setup
    return About(
        method=setup.method.name,
        fields=setup.facts.fields,
        task=setup.facts.task,
        classes=setup.facts.classes,
        clients=len(coordinator.members.examples),
        seed=setup.seed,
        start=setup.start,
        base={"name": setup.facts.base, "fingerprint": setup.identity.get("base")},
        metrics=setup.metrics,
        privacy=coordinator.costs.summary(coordinator.stopped),
        export=export._asdict() if isinstance(export, ExportedAdapter) else None,
    )


def figures(before: ScoresBySite, after: ScoresBySite) -> Figures:
    """Scores by site and domain, before and after; for a site with several domains also their mean."""
    domains: dict[str, dict[str, Scores]] = {}
    clients: dict[str, dict[str, Scores]] = {}
    for column, found in (("before", before), ("after", after)):
        for site, scores in found.items():
            clients.setdefault(site, {})[column] = mean_scores(list(scores.values()))
            for domain, score in scores.items():
                domains.setdefault(site if len(scores) == 1 else f"{site}/{domain}", {})[column] = score
    return Figures(domains, clients)
