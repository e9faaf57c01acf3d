"""The record of releases: what was shown is counted once, and no noise is shown with two different things."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.privacy.accountant import ADD_OR_REMOVE, REPLACE, epsilon
from thinwire.privacy.config import PrivacyConfig
from thinwire.privacy.ledger import BudgetSpent, Ledger, Release
from thinwire.settings import ConfigError
from thinwire.storage.ledger import FILE, begin, read, read_secret, save, spent_in

CONFIG = PrivacyConfig("client", "central", clip=1.0, noise_multiplier=2.0, delta=1e-5)
PLAN = [Release(number, 3, 3) for number in range(4)]


def begun(folder, **changes) -> Ledger:
    return begin(folder, PrivacyConfig(**{**vars(CONFIG), **changes}), 7, PLAN)


def show(folder, ledger: Ledger, number: int, content: str, shown: dict[int, set[str]] | None = None) -> Ledger:
    """A release of `content` in a round; `shown`: the contents by the seed of the noise that they went out with."""
    used = []

    def make(noise):
        used.append(noise.seed)
        return content, hashlib.sha256(content.encode()).hexdigest()

    made, ledger = ledger.show(Release(number, 3, 3), make, partial(save, folder))
    assert made == content
    if shown is not None:
        shown.setdefault(used[-1], set()).add(f"{number} {content}")
    return ledger


@settings(max_examples=40, deadline=None)
@given(releases=st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abc")), max_size=12), reopen=st.booleans())
def test_no_noise_goes_out_with_two_things_and_each_thing_counts_once(tmp_path_factory, releases, reopen):
    """Names hold the round, so that the seed of round 0 may serve round 1: it is (seed, round) that never repeats."""
    folder = tmp_path_factory.mktemp("ledger")
    ledger, shown = begun(folder), {}
    for number, content in releases:
        if reopen:
            ledger = read(folder, CONFIG, 7)
        ledger = show(folder, ledger, number, content, shown)
    by_noise = [(seed, text.split()[0]) for seed, texts in shown.items() for text in texts]
    assert len(by_noise) == len(set(by_noise))
    assert len(ledger.releases) == len(set(releases))
    assert read(folder, CONFIG, 7) == ledger


def test_what_is_not_shown_is_not_counted(tmp_path):
    ledger, never = begun(tmp_path), lambda _: pytest.fail("kept all the same")
    assert ledger.show(Release(0, 3, 3), lambda noise: (noise.seed, ""), never) == (7, ledger)
    assert ledger.releases == ()
    ledger = show(tmp_path, ledger, 0, "a")
    assert ledger.show(Release(0, 3, 3), lambda noise: (noise.seed, ""), never) == (7, ledger)
    assert len(ledger.releases) == 1


def test_the_budget_is_checked_before_anything_is_made(tmp_path):
    costs = [epsilon({(3, 3): count}, 2.0, 1e-5, ADD_OR_REMOVE) for count in (1, 2)]
    ledger = show(tmp_path, begun(tmp_path, budget=sum(costs) / 2), 0, "a")
    assert ledger.epsilon == spent_in(tmp_path)["epsilon"] == costs[0]
    with pytest.raises(BudgetSpent, match=f"round 2 would bring epsilon to {costs[1]:.4g}; the budget is"):
        ledger.show(Release(1, 3, 3), lambda noise: pytest.fail("made all the same"), partial(save, tmp_path))
    assert show(tmp_path, ledger, 0, "a") == ledger, "what was shown may be shown again"
    with pytest.raises(BudgetSpent):
        show(tmp_path, ledger, 0, "b")


def test_a_record_that_cannot_be_written_lets_nothing_out(tmp_path, monkeypatch):
    ledger = begun(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        show(tmp_path, ledger, 0, "a")
    monkeypatch.undo()
    assert read(tmp_path, CONFIG, 7).releases == ()


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"format": 9}', '{"format": 1, "releases": [3]}'])
def test_a_lost_record_is_named(tmp_path, content):
    begun(tmp_path)
    (tmp_path / FILE).unlink() if content is None else (tmp_path / FILE).write_text(content)
    with pytest.raises(ConfigError, match=r"spent\.json: .* missing or damaged.*; allowed is to forget the run"):
        read(tmp_path, CONFIG, 7)
    assert spent_in(tmp_path) == {}


def test_a_secret_is_drawn_once(tmp_path):
    one, other = (begun(tmp_path / name, seed="system") for name in ("one", "other"))
    assert one.noise.seed == read_secret(tmp_path / "one") != other.noise.seed
    again = read(tmp_path / "one", PrivacyConfig(**{**vars(CONFIG), "seed": "system"}), 7)
    assert again == one


def test_sets_of_fixed_size_have_other_neighbours_once_one_is_drawn(tmp_path):
    ledger = show(tmp_path, begin(tmp_path, CONFIG, 7, PLAN, sets=True), 0, "a")
    assert ledger.epsilon == epsilon({(3, 3): 1}, 2.0, 1e-5, ADD_OR_REMOVE)
    drawn = Release(1, 3, 9)
    assert ledger.add([drawn]).epsilon == epsilon({(3, 3): 1, (3, 9): 1}, 2.0, 1e-5, REPLACE)


def test_no_noise_is_no_bound(tmp_path):
    ledger = show(tmp_path, begun(tmp_path, noise_multiplier=0.0), 0, "a")
    assert ledger.public["epsilon"] is None
    assert json.loads((tmp_path / FILE).read_text())["epsilon"] is None


def test_the_record_of_an_earlier_run_is_read(tmp_path):
    """As version 0.1 wrote it."""
    (tmp_path / FILE).write_text(
        '{"format": 1, "epsilon": 0.9, "delta": 1e-05, "protects": "client", "noise_multiplier": 2.0, "budget": 4.0,'
        ' "releases": [{"round": 0, "drawn": 3, "among": 9, "times": 1, "sha256": "ab"},'
        ' {"round": 1, "drawn": 3, "among": 9, "times": 2, "sha256": "cd"}]}'
    )
    ledger = read(tmp_path, CONFIG, 7)
    assert ledger.releases == (Release(0, 3, 9, 1, "ab"), Release(1, 3, 9, 2, "cd"))
    assert (ledger.budget, ledger.epsilon) == (4.0, epsilon({(3, 9): 3}, 2.0, 1e-5, ADD_OR_REMOVE))
    save(tmp_path, ledger)
    assert list(json.loads((tmp_path / FILE).read_text())["releases"][1]) == [
        "round", "drawn", "among", "times", "sha256",
    ]
