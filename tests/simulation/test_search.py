"""The search over (rank, density): its rule on made-up losses, and small real runs that are not played twice."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simulation.conftest import write_toml
from thinwire.cli import main
from thinwire.config import SearchConfig, from_dict
from thinwire.engine.rounds import Diverged
from thinwire.settings import ConfigError
from thinwire.simulation.search import Measurement, Point, check, climb, mean_after, point_recipe, search

GRID = SearchConfig(ranks=(1, 4, 16), densities=(0.0625, 0.25, 1.0))


def cost(point):
    return int(1e6 * point.rank * point.density)


def by(losses, seen=None):
    """Measure by a table {(rank, density): loss}; others are 9."""

    def measure(point):
        if seen is not None:
            seen.append(point)
        return Measurement(losses.get((point.rank, point.density), 9.0), 0.0, cost(point))

    return measure


def test_the_better_of_each_pair_is_taken():
    seen = []
    losses = {
        (1, 0.0625): 5.0,
        (4, 0.0625): 4.0,
        (1, 0.25): 4.5,  # the pair of the first: rank rises
        (16, 0.0625): 3.9,
        (4, 0.25): 3.5,  # the pair of the second: density rises
        (16, 0.25): 3.6,
        (4, 1.0): 3.7,  # neither helps
    }
    chosen, steps = climb(GRID, by(losses, seen))
    assert chosen == Point(4, 0.25)
    assert [step.taken for step in steps] == [Point(4, 0.0625), Point(4, 0.25), None]
    assert set(steps[0].pair) == {Point(4, 0.0625), Point(1, 0.25)}
    assert len(seen) == 7


def test_it_ends_in_the_corner_where_all_helps():
    chosen, steps = climb(GRID, lambda point: Measurement(1 / (point.rank * point.density), 0.0, cost(point)))
    assert chosen == Point(16, 1.0)
    assert len(steps) == 4
    assert len(steps[-1].pair) == 1


def test_equal_losses_prefer_fewer_bytes_then_the_lower_rank():
    tied = by({(1, 0.0625): 5.0, (4, 0.0625): 4.0, (1, 0.25): 4.0})
    assert climb(GRID, tied)[0] == Point(1, 0.25)
    unequal = SearchConfig(ranks=(1, 2), densities=(0.25, 1.0))
    assert climb(unequal, by({(1, 0.25): 5.0, (2, 0.25): 4.0, (1, 1.0): 4.0}))[0] == Point(2, 0.25)


def test_a_gain_that_is_asked_for_and_a_budget_end_it():
    losses = {(1, 0.0625): 5.0, (4, 0.0625): 4.9, (1, 0.25): 4.95}
    steady = SearchConfig(ranks=GRID.ranks, densities=GRID.densities, gain=0.2)
    assert climb(steady, by(losses))[0] == Point(1, 0.0625)
    poor = SearchConfig(ranks=GRID.ranks, densities=GRID.densities, budget_mb=0.25)
    chosen, steps = climb(poor, lambda point: Measurement(1 / (point.rank * point.density), 0.0, cost(point)))
    assert cost(chosen) <= 0.25e6
    assert steps[-1].taken is None
    assert "beyond 0.25 MB" in steps[-1].why


def test_what_diverged_is_never_taken():
    assert climb(GRID, by({(1, 0.0625): 5.0, (4, 0.0625): math.inf, (1, 0.25): math.inf}))[0] == Point(1, 0.0625)
    assert mean_after({"a": {"after": 1.0}, "b": {"after": math.nan}}) == mean_after({"a": {"after": None}}) == math.inf


@given(st.dictionaries(st.tuples(st.sampled_from(GRID.ranks), st.sampled_from(GRID.densities)), st.floats(0, 10)))
def test_every_step_raises_one_of_the_two_and_lowers_the_loss(losses):
    measure = by(losses)
    chosen, steps = climb(GRID, measure)
    for step in steps:
        if step.taken:
            raised = (step.taken.rank > step.start.rank) + (step.taken.density > step.start.density)
            assert raised == 1
            assert measure(step.taken).loss < measure(step.start).loss
            assert measure(step.taken).loss == min(measure(point).loss for point in step.pair)
    assert chosen == (steps[-1].taken or steps[-1].start)


def test_a_run_that_diverges_is_never_taken(tmp_path):
    def play(recipe, directory, resume):
        if recipe.lora.rank > 1:
            raise Diverged("the server's change is not usable")
        figures = {"one": {"after": 5.0 - recipe.method["up_density"]}}
        return {"loss": figures, "score": figures, "bytes_up": 10, "bytes_down": 20}

    search_of = {"ranks": [1, 4], "densities": [0.25, 1.0]}
    found = search(from_dict({"method": {"name": "flasc"}, "search": search_of}), tmp_path, play, lambda *_: None)
    assert (found["chosen"]["rank"], found["chosen"]["density"]) == (1, 1.0)
    assert found["chosen"]["bytes"] == 30
    assert [row["loss"] for row in found["runs"] if row["rank"] == 4] == [math.inf, math.inf]


def test_a_point_keeps_the_scale_and_reads_the_validation_split():
    recipe = from_dict({"lora": {"rank": 16, "alpha": 32.0}, "method": {"name": "flasc", "decay": 0.9}})
    at = point_recipe(recipe, Point(4, 0.25))
    assert (at.lora.rank, at.lora.alpha) == (4, 8.0)
    assert at.method == {"name": "flasc", "decay": 0.9, "down_density": 0.25, "up_density": 0.25}
    assert (at.data.split, at.run.references, at.run.evaluate_every) == ("validation", False, 0)
    root = from_dict({"lora": {"rank": 16, "alpha": 32.0, "rslora": True}, "method": {"name": "flasc"}})
    assert point_recipe(root, Point(4, 1.0)).lora.alpha == 16.0


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"search": {"ranks": [4, 1]}}, r"search.ranks = \[4, 1\]"),
        ({"search": {"densities": []}}, r"search.densities = \[\]"),
        ({"method": {"name": "fedit"}}, "fedit has no field down_density; allowed are none"),
        ({"federation": {"densities": [0.5]}}, "same rank and density for all clients"),
    ],
)
def test_a_search_that_cannot_be_made_is_refused(sections, words):
    with pytest.raises(ConfigError, match=words):
        check(from_dict({"method": {"name": "flasc"}, **sections}))


@pytest.mark.slow
def test_real_runs_are_kept_and_not_played_again(settings, tmp_path, capsys, monkeypatch):
    made = {
        **settings,
        "method": {"name": "flasc"},
        "federation": {"rounds": 1},
        "search": {"ranks": [2, 4], "densities": [0.25, 1.0]},
        "run": {"seed": 3, "threads": 1},
        "train": {"steps": 2, "batch": 4},
    }
    toml, folder = write_toml(tmp_path / "search.toml", made), tmp_path / "found"
    assert main(["search", str(toml), "--to", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "chosen" in shown
    assert (folder / "search.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((folder / "search.json").read_text())
    for row in found["runs"]:
        summary = json.loads((folder / row["directory"] / "summary.json").read_text())
        assert row["bytes"] == summary["bytes_up"] + summary["bytes_down"]
        assert row["loss"] == pytest.approx(mean_after(summary["loss"]))
        assert summary["fields"]["up_density"] == row["density"]
    assert found["chosen"]["loss"] <= found["runs"][0]["loss"]

    from thinwire.simulation import run as simulation

    played = []
    real = simulation.run
    monkeypatch.setattr(simulation, "run", lambda *args: played.append(args[1].path.name) or real(*args))
    (folder / "search.json").unlink()
    last = found["runs"][-1]["directory"]
    (folder / last / "summary.json").unlink()
    assert main(["search", str(toml), "--to", str(folder), "--json"]) == 0
    assert played == [last], "only what was not finished is played on"
    assert json.loads(capsys.readouterr().out) == found
    assert main(["search", str(toml), "--to", str(folder), "--set", "train.steps=3"]) == 2
    assert "a search of another recipe" in capsys.readouterr().err
