"""Every method that travels: across sites it ends where the simulation ends, also with ranks of the sites' own."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tests import own_method
from tests.federation.conftest import NAMES, local, run
from tests.simulation.conftest import perform
from thinwire.compatibility import takes_ranks
from thinwire.method import States
from thinwire.methods import METHODS, create

TRAVELLING = sorted(METHODS)
UNEQUAL = sorted(name for name in TRAVELLING if takes_ranks(create(name)))


@pytest.mark.parametrize("name", TRAVELLING)
def test_every_method_ends_where_the_simulation_ends(recipe, sites, tmp_path, name):
    same_end(recipe(method={"name": name}, federation={"rounds": 2}, run=QUICK, train=PLAIN), sites, tmp_path)


@pytest.mark.parametrize("name", UNEQUAL)
def test_sites_with_ranks_of_their_own(recipe, sites, tmp_path, name):
    ranks = {"rounds": 2, "rank_of": dict(zip(NAMES, (1, 2, 4), strict=True))}
    same_end(recipe(method={"name": name}, federation=ranks, run=QUICK, train=PLAIN), sites, tmp_path)


def limited(sites, name, text):
    path = sites[name] / "site.toml"
    path.write_text(path.read_text() + f"[limits]\n{text}\n")


@pytest.mark.parametrize(
    ("name", "limit", "table"), [("hetlora", "rank = 2", "rank_of"), ("flasc", "density = 0.1", "density_of")]
)
def test_a_site_s_limits_are_kept_as_if_the_recipe_said_so(recipe, sites, tmp_path, name, limit, table):
    limited(sites, "beta", limit)
    limited(sites, "gamma", "rank = 4096")
    value = {"beta": float(limit.split()[-1]) if table == "density_of" else int(limit.split()[-1])}
    plain = recipe(method={"name": name}, federation={"rounds": 2}, run=QUICK, train=PLAIN)
    given = recipe(method={"name": name}, federation={"rounds": 2, table: value}, run=QUICK, train=PLAIN)
    _, told, adapter = run(plain, tmp_path / "run", local(sites))
    assert adapter == perform(given, tmp_path / "straight").adapter
    assert all("counted" in text for text in told), told


@pytest.mark.parametrize(
    ("limit", "words"),
    [("rank = 1", "limits.rank = 1: fedit needs rank"), ("density = 0.5", "fedit has no density of its own")],
)
def test_limits_that_the_method_cannot_keep_are_refused_by_name(recipe, sites, tmp_path, limit, words):
    limited(sites, "beta", limit)
    plain = recipe(method={"name": "fedit"}, federation={"rounds": 1}, run=QUICK, train=PLAIN)
    _, told, _ = run(plain, tmp_path / "run", local(sites), quorum=2)
    assert any("site 'beta'" in text and "is refused" in text and words in text for text in told), told


@pytest.mark.parametrize("limits", [7, {"rank": "much"}, {"rank": 0}, {"density": 3.0}, {"memory": 1}])
def test_limits_that_are_none_are_refused(recipe, sites, tmp_path, limits):
    transport = local(sites)
    transport.spoil = lambda node, request, reply: (
        replace(reply, facts={**reply.facts, "limits": limits}) if request.task == "hello" and node == 12 else reply
    )
    plain = recipe(method={"name": "hetlora"}, federation={"rounds": 1}, run=QUICK, train=PLAIN)
    _, told, _ = run(plain, tmp_path / "run", transport, quorum=2)
    assert any("site 'beta'" in text and "is refused" in text and "limits" in text for text in told), told


QUICK = {"references": False, "evaluate_every": 0}
PLAIN = {"keep_optimizer": False}


def same_end(recipe, sites, folder):
    summary, told, adapter = run(recipe, folder / "run", local(sites))
    straight = perform(recipe, folder / "straight")
    assert adapter == straight.adapter
    assert summary["bytes_up"] == straight.summary["bytes_up"]
    # a state is sent anew to be scored, which the simulation does not count
    states = isinstance(create(summary["method"]).exchange, States)
    assert summary["bytes_down"] >= straight.summary["bytes_down"]
    assert states or summary["bytes_down"] == straight.summary["bytes_down"]
    assert all("counted" in text for text in told), told


def test_a_method_of_one_s_own_runs_where_the_owner_allows_it(recipe, sites, tmp_path):
    """The server has its file, each site its own copy; one has another one, one allows none."""
    code = Path(own_method.__file__).read_text(encoding="utf-8")
    (tmp_path / "mine.py").write_text(code)
    for name, text in {"alpha": code, "beta": code + "# a change\n", "gamma": code}.items():
        (sites[name] / "mine.py").write_text(text)
        allowed = hashlib.sha256(text.encode()).hexdigest()
        if name != "gamma":
            path = sites[name] / "site.toml"
            path.write_text(path.read_text() + f'[methods]\n"mine.py:OnlyB" = "{allowed}"\n')
    method = {"name": f"{tmp_path / 'mine.py'}:OnlyB"}
    wanted = recipe(method=method, federation={"rounds": 1}, run=QUICK, train=PLAIN)
    summary, told, _ = run(wanted, tmp_path / "run", local(sites), quorum=1)
    assert summary["method"] == "only-b"
    assert any("site 'beta'" in text and "it differs in the method's code" in text for text in told), told
    assert any("site 'gamma'" in text and "code that this site does not allow" in text for text in told), told
    assert any("counted" in text for text in told), told
