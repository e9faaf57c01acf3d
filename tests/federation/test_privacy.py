"""Privacy across sites: the simulation's bits where the noise is, a secret a site, a budget each, and no noise twice."""

from __future__ import annotations

import json
import stat
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.federation.conftest import NAMES, local, opened, run
from tests.simulation.conftest import Notes
from thinwire.federation.audit import FILE as AUDIT
from thinwire.federation.book import FILE, SPENT, BudgetSpent, Release, begin_book, read_book, spent_in
from thinwire.federation.messages import Request
from thinwire.federation.site import Trainers
from thinwire.federation.store import forget
from thinwire.privacy.accountant import ADD_OR_REMOVE, REPLACE, epsilon
from thinwire.privacy.config import PrivacyConfig
from thinwire.settings import ConfigError
from thinwire.simulation.directory import RunDirectory
from thinwire.simulation.rounds import RunStopped
from thinwire.simulation.run import run as simulate

CENTRAL = {"level": "client", "noise": "central", "clip": 0.5, "delta": 1e-5, "noise_multiplier": 4.0}
LOCAL = CENTRAL | {"noise": "local"}
EXAMPLE = {"level": "example", "clip": 0.5, "delta": 1e-3, "noise_multiplier": 2.0}
KINDS = {"central": (CENTRAL, "fedsrd"), "local": (LOCAL, "fedsrd-e"), "example": (EXAMPLE, "fedsrd")}
QUICK = {"references": False, "evaluate_every": 0}

COST = {
    "central": lambda rounds: epsilon({(3, 3): rounds}, 4.0, 1e-5, ADD_OR_REMOVE),
    "local": lambda rounds: epsilon({(1, 1): rounds}, 4.0, 1e-5, REPLACE),
    "example": lambda rounds: epsilon({(4, 12): 2 * rounds}, 2.0, 1e-3, ADD_OR_REMOVE),
}
"""Epsilon by hand: three sites; uploads; 4 of 12 examples in each of 2 steps a round."""


class Killed(BaseException):
    """Stands in for SIGKILL."""


class Watcher(Notes):
    def spent(self, epsilon: float, delta: float) -> None:
        pass


def wanted(recipe, kind, privacy=None, **more):
    base, method = KINDS[kind]
    return recipe(**{"privacy": base | (privacy or {}), "method": {"name": method}, "run": QUICK, **more})


def without_noise_multiplier(privacy):
    return {key: value for key, value in privacy.items() if key != "noise_multiplier"}


def straight(recipe, folder: Path) -> tuple[dict, bytes]:
    directory = RunDirectory(folder)
    return simulate(recipe, directory, Watcher()), (directory.adapter / "adapter_model.safetensors").read_bytes()


def states(sites, name) -> Path:
    """Where a site keeps its one run."""
    (folder,) = (sites[name] / "state" / "words").iterdir()
    return folder


def audit(sites, name) -> list[dict]:
    return [json.loads(text) for text in (sites[name] / AUDIT).read_text().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_with_the_run_s_seed_it_is_the_simulation_to_the_last_bit(recipe, sites, tmp_path, kind):
    asked = wanted(recipe, kind)
    summary, told, adapter = run(asked, tmp_path / "run", local(sites))
    theirs, expected = straight(asked, tmp_path / "straight")
    assert adapter == expected
    assert {**summary["privacy"], "noise_multipliers": None} == {**theirs["privacy"], "noise_multipliers": None}
    assert summary["privacy"]["epsilon"] == COST[kind](4)
    assert told[-1] == f"round 4/4 counted, epsilon {COST[kind](4):.3g} (delta {asked.privacy.delta:.0e})"
    costs = [line["epsilon"] for line in RunDirectory(tmp_path / "run").lines() if "epsilon" in line]
    assert costs == [COST[kind](rounds) for rounds in (1, 2, 3, 4)]
