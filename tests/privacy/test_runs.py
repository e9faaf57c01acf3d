"""Whole runs with privacy: figures in every place, the budget's stop, resume, the secret, and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.conftest import Done, perform, write_toml
from thinwire.cli import main
from thinwire.config import Recipe
from thinwire.privacy.accountant import ADD_OR_REMOVE, REPLACE, epsilon
from thinwire.settings import ConfigError
from thinwire.simulation import run as module
from thinwire.simulation.run import checked, longer
from thinwire.storage.directory import RunDirectory

CLIENT = {"level": "client", "noise": "central", "clip": 0.5, "delta": 1e-5, "noise_multiplier": 4.0}
LOCAL = CLIENT | {"noise": "local"}
EXAMPLE = {"level": "example", "clip": 0.5, "delta": 1e-3, "epsilon": 8.0}
PLAIN_RUN = {"seed": 3, "threads": 1, "references": False, "evaluate_every": 0}


def again(folder: Path, rounds: int | None = None) -> Done:
    return perform(checked(longer(RunDirectory(folder).recipe(), rounds)), folder, resume=True)


def interrupted(recipe: Recipe, folder: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Play the first rounds of a run, and stop as Ctrl-C does."""
    real = module.play

    def play(federation: Any, state: Any, record: Any) -> Any:
        if state.round == at:
            raise KeyboardInterrupt
        return real(federation, state, record)

    with monkeypatch.context() as patch:
        patch.setattr(module, "play", play)
        with pytest.raises(KeyboardInterrupt):
            perform(recipe, folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("privacy", "method", "cost"),
    [
        (CLIENT, "fedsrd", epsilon({(3, 3): 4}, 4.0, 1e-5, ADD_OR_REMOVE)),
        (LOCAL, "fedsrd-e", epsilon({(1, 1): 4}, 4.0, 1e-5, REPLACE)),
        pytest.param(EXAMPLE, "flasc", None, marks=pytest.mark.long),
    ],
    ids=["central", "local", "example"],
)
def test_the_figures_are_the_same_everywhere_and_a_stop_changes_no_bit(
    recipe, tmp_path, monkeypatch, privacy, method, cost
):
    wanted = recipe(privacy=privacy, method={"name": method}, run=PLAIN_RUN)
    done = perform(wanted, tmp_path / "straight")
    told = done.summary["privacy"]
    lines = [line for line in done.directory.lines() if "epsilon" in line]
    assert [line["round"] for line in lines] == [1, 2, 3, 4]
    assert [line["epsilon"] for line in lines] == done.notes.costs
    assert lines[-1]["epsilon"] == told["epsilon"]
    assert lines[-1]["delta"] == told["delta"] == privacy["delta"]
    if cost is None:
        assert 7.9 < told["epsilon"] <= told["budget"] == 8.0
        assert told["clients"] == dict.fromkeys(("alpha", "beta", "gamma"), told["epsilon"])
    else:
        assert told["epsilon"] == cost
    assert json.loads((done.directory.path / "summary.json").read_text())["privacy"] == told
    assert done.directory.recipe().privacy.noise_multiplier == told["noise_multiplier"]
    interrupted(wanted, tmp_path / "stopped", 2, monkeypatch)
    again(tmp_path / "stopped").same_as(done)


def test_the_budget_ends_the_run_and_what_is_done_is_kept(recipe, tmp_path):
    costs = [epsilon({(3, 3): rounds}, 4.0, 1e-5, ADD_OR_REMOVE) for rounds in (2, 3)]
    privacy = CLIENT | {"budget": sum(costs) / 2}
    done = perform(recipe(privacy=privacy, run=PLAIN_RUN | {"references": True}), tmp_path / "run")
    assert done.summary["rounds"] == 2
    assert done.summary["privacy"]["epsilon"] == costs[0]
    assert done.summary["privacy"]["stopped"].startswith(f"round 3 would bring epsilon to {costs[1]:.4g}")
    assert done.notes.rounds[:2] == [1, 2]
    assert done.notes.warnings == [f"stopped after round 2: {done.summary['privacy']['stopped']}"]
    assert done.adapter
    alone = [line for line in done.directory.alone.lines() if "client" in line]
    assert {line["round"] for line in alone} == {1, 2}, "specialists are trained as long"
    assert not [line for line in done.directory.alone.lines() if "epsilon" in line]
    longer = again(tmp_path / "run", 9)
    assert longer.summary["rounds"] == 2
    assert longer.adapter == done.adapter


def test_a_secret_is_kept_for_a_resume_and_is_nobody_else_s(recipe, tmp_path, monkeypatch):
    privacy = CLIENT | {"seed": "system"}
    wanted = recipe(privacy=privacy, run=PLAIN_RUN)
    one, other = (perform(wanted, tmp_path / name) for name in ("one", "other"))
    secret = one.directory.checkpoints / "secret"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert len(secret.read_text().strip()) == 64
    assert one.adapter != other.adapter
    assert one.summary["privacy"]["secret_seed"]
    for path in one.directory.path.rglob("*"):
        if path.is_file() and path != secret:
            assert secret.read_text().strip().encode() not in path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(module, "draw_secret", lambda: int(secret.read_text(), 16))
        interrupted(wanted, tmp_path / "stopped", 2, patch)
    again(tmp_path / "stopped").same_as(one)
    secret.unlink()
    with pytest.raises(ConfigError, match="secret is missing or damaged"):
        again(tmp_path / "one", 5)


def test_without_privacy_nothing_is_said(recipe, tmp_path):
    done = perform(recipe(run=PLAIN_RUN, federation={"rounds": 1}), tmp_path / "run")
    assert done.summary["privacy"] is None
    assert not [line for line in done.directory.lines() if "epsilon" in line]
    assert not (done.directory.checkpoints / "secret").exists()


def test_the_command_line_shows_what_was_spent(settings, tmp_path, capsys):
    settings = {**settings, "privacy": CLIENT, "run": PLAIN_RUN, "federation": {"rounds": 2}}
    assert main(["run", str(write_toml(tmp_path / "r.toml", settings)), "--output", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr()
    cost = epsilon({(3, 3): 2}, 4.0, 1e-5, ADD_OR_REMOVE)
    assert f"epsilon {cost:.3g} (delta 1e-05)" in shown.err
    assert f"privacy of one client: epsilon {cost:.3g} at delta 1e-05 (add or remove one)" in shown.out
    assert "simulated: the noise follows from the run's seed" in shown.out


def test_a_refusal_is_one_line(settings, tmp_path, capsys):
    path = write_toml(tmp_path / "r.toml", {**settings, "privacy": CLIENT | {"budget": 0.1}})
    assert main(["run", str(path), "--output", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr().err
    assert "privacy.budget = 0.1: round 1 would bring epsilon to" in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "run").exists()
