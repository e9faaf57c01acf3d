"""Across sites: the server names what changed since the checkpoint, a site what changed in its records."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.federation.conftest import local, opened, problems, run
from thinwire.engine.rounds import RunStopped
from thinwire.settings import ConfigError
from thinwire.storage.directory import RunDirectory


def rounds(recipe, number, **train):
    """The recipe of so many rounds, otherwise the same."""
    shorter = replace(recipe.federation, rounds=number)
    return replace(recipe, federation=shorter, train=replace(recipe.train, horizon=4, **train))


@pytest.fixture
def begun(recipe, sites, tmp_path):
    """A run of one round in `run`, which another round may follow."""
    quick = recipe(run={"references": False, "evaluate_every": 0})
    run(rounds(quick, 1), tmp_path / "run", local(sites))
    return quick


def drop_a_record(site):
    path = site / "data" / f"{site.name}.train.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[1:]))


def test_more_rounds_of_the_same_go_on_without_a_word(begun, sites, tmp_path):
    told = run(rounds(begun, 2), tmp_path / "run", local(sites))[1]
    assert not [text for text in told if "changed" in text or "fingerprints" in text]


def test_another_recipe_is_refused_by_the_server_until_it_is_accepted(begun, sites, tmp_path):
    other = rounds(begun, 2, steps=3)
    with pytest.raises(ConfigError, match=r"train.steps \(2 before, 3 now\).*--accept-changes recipe"):
        opened(other, tmp_path / "run")
    RunDirectory(tmp_path / "run").accept({"recipe"})
    told = run(other, tmp_path / "run", local(sites))[1]
    assert [text for text in told if "goes on though train.steps" in text]
    assert not RunDirectory(tmp_path / "run").accepted


def test_a_site_with_other_records_refuses_and_says_what(begun, sites, tmp_path):
    drop_a_record(sites["beta"])
    with pytest.raises(RunStopped):
        run(rounds(begun, 2), tmp_path / "run", local(sites), patience=0.1)
    log = (sites["beta"] / "audit.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["problem"] == "changed"
    assert "this site: the training records of beta changed" in problems(sites["beta"])[-1]["text"]


def test_a_site_whose_records_may_change_goes_on(begun, sites, tmp_path, caplog):
    drop_a_record(sites["beta"])
    path = sites["beta"] / "site.toml"
    path.write_text(path.read_text().replace("[data]\n", "[data]\nmay_change = true\n"))
    summary = run(rounds(begun, 2), tmp_path / "run", local(sites))[0]
    assert summary["rounds"] == 2
    assert "goes on though the training records of beta changed" in caplog.text
