"""Every module here is skipped, with a reason, where Flower is not installed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from tests.federation.conftest import NAMES
from tests.flower.processes import Federation, everyone, furnish, made
from tests.one_thread import one_thread  # noqa: F401
from tests.simulation.conftest import Done, perform, place, recipe, settings, write_toml  # noqa: F401

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

ROUNDS = {"federation": {"rounds": 2}, "run": {"seed": 3, "threads": 1, "references": False, "evaluate_every": 0}}
OWNERS = NAMES[:2]


@pytest.fixture(autouse=True)
def task() -> None:
    """What Flower tells a process of a ServerApp before the app begins."""
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


@pytest.fixture(scope="session")
def straight(recipe, tmp_path_factory) -> Done:  # noqa: F811
    """The run of `federation`'s recipe by the simulation: two rounds of two owners."""
    torch.set_num_threads(1)
    data = {"clients": list(OWNERS)}
    return perform(recipe(**ROUNDS, data=data), tmp_path_factory.mktemp("straight") / "run")


@pytest.fixture(scope="module")
def federation(place, settings, tmp_path_factory) -> Iterator[Federation]:  # noqa: F811
    """Two sites and their server as processes; both uploads are needed for a round to count."""
    folder = tmp_path_factory.mktemp("flower") / "f"
    quick = write_toml(folder.parent / "recipe.toml", {**settings, **ROUNDS})
    new = made(folder, OWNERS, quick)
    for name in OWNERS:
        furnish(new.site(name), name, place)
    new.rules(quorum=2, deadline=90.0, attempts=5, patience=90.0)
    with everyone(new):
        yield new
