"""The figures of a run: every metric by test domain and by client, before, alone and after; mean, worst and spread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np

from thinwire.data import Example
from thinwire.evaluation import Outcomes, Scores, join

WRITTEN = {"loss": "loss", "score": "exact", "token_accuracy": "accuracy"}
CLASSIFIED = {"loss": "loss", "score": "accuracy", "accuracy": "accuracy", "macro_f1": "macro_f1"}
"""A summary's name for a metric -> its field of Scores. `score` is the one that says best whether a model is right."""



def metrics_of(task: str) -> Mapping[str, str]:
    """The metrics of a recipe's task."""
    return WRITTEN if task == "text" else CLASSIFIED


WORST = 0.1
"""The share of clients whose mean is called the worst decile; at least one client."""

OutcomesByDomain = Mapping[str, Outcomes]
"""Outcomes by test domain."""


@dataclass(frozen=True)
class HeldOut:
    """Examples that nobody trains on, by domain, and the client that each belongs to (None: nobody)."""

    examples: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    owners: Mapping[str, Sequence[str | None]] = field(default_factory=dict)

    def count(self, owner: str | None = None) -> int:
        """How many there are, in all or of one client."""
        if owner is None:
            return sum(map(len, self.examples.values()))
        return sum(names.count(owner) for names in map(list, self.owners.values()))


@dataclass(frozen=True)
class Figures:
    """Scores by domain and column, and by client and column; columns: before, own, alone, after."""

    domains: Mapping[str, Mapping[str, Scores]]
    clients: Mapping[str, Mapping[str, Scores]]


def by_client(found: OutcomesByDomain, held: HeldOut) -> dict[str, Scores]:
    """The scores of each client on the examples that belong to it; clients without any are absent."""
    parts: dict[str, list[Outcomes]] = {}
    for domain, outcomes in found.items():
        for name, own in outcomes.by(held.owners[domain]).items():
            parts.setdefault(name, []).append(own)
    return {name: join(parts[name]).scores() for name in sorted(parts)}


def figures(
    held: HeldOut,
    before: OutcomesByDomain,
    finals: Mapping[str, OutcomesByDomain],
    alone: Mapping[str, OutcomesByDomain],
    whole: bool,
    personal: Mapping[str, Mapping[str, OutcomesByDomain]] = MappingProxyType({}),
) -> Figures:
    """All scores. `finals` and `alone`: by the owner of the adapters, one or every client.

    `whole`: each owner was evaluated on all examples, so a domain's figure is the mean over owners. Otherwise each was
    evaluated on its own examples, and the figure is over all of these together. `personal`: by column and client, each
    evaluated on its own examples.
    """
    domains: dict[str, dict[str, Scores]] = {}
    clients: dict[str, dict[str, Scores]] = {}

    def put(table: dict[str, dict[str, Scores]], column: str, rows: Mapping[str, Scores]) -> None:
        for name, scores in rows.items():
            table.setdefault(name, {})[column] = scores

    put(domains, "before", {domain: outcomes.scores() for domain, outcomes in before.items()})
    put(clients, "before", by_client(before, held))
    if alone and whole:
        put(domains, "own", {domain: alone[domain][domain].scores() for domain in before if domain in alone})
        put(domains, "alone", over_owners(alone, whole))
    elif alone:
        put(domains, "own", over_owners(alone, whole))
    put(clients, "own", of_owners(alone, held))
    put(domains, "after", over_owners(finals, whole))
    put(clients, "after", by_client(next(iter(finals.values())), held) if len(finals) == 1 else of_owners(finals, held))
    for column, own in personal.items():
        put(clients, column, of_owners(own, held))
        put(domains, column, over_owners(own, whole=False))
    return Figures(domains, clients)


def over_owners(owners: Mapping[str, OutcomesByDomain], whole: bool) -> dict[str, Scores]:
    """The scores of each domain over all owners of adapters."""
    parts: dict[str, list[Outcomes]] = {}
    for found in owners.values():
        for domain, own in found.items():
            parts.setdefault(domain, []).append(own)
    if whole:
        return {domain: mean_scores([own.scores() for own in several]) for domain, several in parts.items()}
    return {domain: join(several).scores() for domain, several in parts.items()}


def of_owners(owners: Mapping[str, OutcomesByDomain], held: HeldOut) -> dict[str, Scores]:
    """The scores of each owner's adapters on the examples that belong to it."""
    scores = {owner: by_client(found, held) for owner, found in owners.items()}
    return {owner: own[owner] for owner, own in scores.items() if owner in own}


def mean_scores(several: Sequence[Scores]) -> Scores:
    """The mean of every field."""
    names = [spec.name for spec in fields(Scores)]
    columns: dict[str, Any] = {name: [getattr(scores, name) for scores in several] for name in names}
    means: dict[str, Any] = {name: None if None in own else sum(own) / len(own) for name, own in columns.items()}
    return Scores(**means)


def summary_of(found: Figures, metrics: Mapping[str, str]) -> dict[str, Any]:
    """{metric: {domain: {column: figure}}}, and the same over clients: mean, worst decile and spread by column."""

    def table(which: str) -> dict[str, dict[str, float]]:
        return {
            domain: {column: getattr(scores, which) for column, scores in row.items()}
            for domain, row in found.domains.items()
        }

    tables: dict[str, Any] = {name: table(which) for name, which in metrics.items()}
    over: dict[str, Any] = {"clients": len(found.clients)}
    for name, which in metrics.items():
        columns: dict[str, list[float]] = {}
        for row in found.clients.values():
            for column, scores in row.items():
                columns.setdefault(column, []).append(getattr(scores, which))
        over[name] = {column: spread(values, name == "loss") for column, values in columns.items()}
    return {**tables, "over_clients": over}


def client_rows(found: Figures, metrics: Mapping[str, str]) -> dict[str, Any]:
    """{client: {"examples": held-out examples, column: {metric: figure}}}."""
    return {
        name: {"examples": row["before"].examples}
        | {column: by_metric(scores, metrics) for column, scores in row.items()}
        for name, row in found.clients.items()
    }


def by_metric(scores: Scores, metrics: Mapping[str, str]) -> dict[str, float]:
    """The figures of some scores by the summary's names."""
    return {name: getattr(scores, which) for name, which in metrics.items()}


def spread(values: Iterable[float], low_is_good: bool) -> dict[str, float]:
    """Mean, mean of the worst tenth (at least one), and standard deviation; every client weighs the same."""
    good_first = np.sort(np.array(list(values), np.float64))
    if not low_is_good:
        good_first = good_first[::-1]
    worst = good_first[-max(1, math.ceil(WORST * len(good_first) - 1e-9)) :]
    return {"mean": float(good_first.mean()), "worst_decile": float(worst.mean()), "spread": float(good_first.std())}
