"""What rounds release: which sampler and which neighbours it counts with, whom it counts, when it says stop."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.laws.synthetic import federation, first
from thinwire.config import FederationConfig, Recipe, from_dict
from thinwire.engine.rounds import expected_count, sample
from thinwire.methods import create
from thinwire.privacy.accountant import ADD_OR_REMOVE, REPLACE, epsilon
from thinwire.privacy.config import PrivacyConfig
from thinwire.privacy.ledger import Ledger, counted, undominated
from thinwire.privacy.noise import Noise
from thinwire.session.opened import method_of
from thinwire.settings import ConfigError
from thinwire.simulation.releases import guarantee, releases_of, resolved, run_ledger
from thinwire.simulation.rounds import Federation
from thinwire.storage import ledger as record
from thinwire.storage.ledger import draw_secret
from thinwire.training.config import TrainConfig
from thinwire.training.shares import ProcessPlace

TRAIN = TrainConfig(steps=3, batch=2)


def federated(place: str, clients: int = 4, method: str = "fedit", **config) -> Federation:
    noise = Noise(place, 1.0, 2.0, 11)
    return replace(federation((method, {}), clients, **{"rounds": 6} | config), noise=noise)


PRIVACY = {
    "sum": PrivacyConfig("client", "central", clip=1.0, noise_multiplier=2.0, delta=1e-5),
    "upload": PrivacyConfig("client", "local", clip=1.0, noise_multiplier=2.0, delta=1e-5),
    "gradient": PrivacyConfig("example", clip=1.0, noise_multiplier=2.0, delta=1e-5),
}


def recipe_of(federated: Federation, budget: float | None = None, train: TrainConfig = TRAIN) -> Recipe:
    privacy = replace(PRIVACY[federated.noise.place], budget=budget)
    return replace(Recipe(), privacy=privacy, train=train, federation=federated.config)


def ledger(federated: Federation, rounds: int, **more) -> Ledger:
    return run_ledger(recipe_of(federated, **more), federated, rounds)


@pytest.mark.parametrize(
    ("place", "config", "relation"),
    [
        ("sum", {}, ADD_OR_REMOVE),
        ("sum", {"clients_per_round": 4}, ADD_OR_REMOVE),
        ("sum", {"clients_per_round": 2}, REPLACE),
        ("sum", {"clients_per_round": 3, "first_round": {"client-0": 4}}, REPLACE),
        ("sum", {"clients_per_round": 2, "sampling": "poisson"}, ADD_OR_REMOVE),
        ("upload", {"clients_per_round": 2, "sampling": "poisson"}, REPLACE),
        ("gradient", {"clients_per_round": 2}, ADD_OR_REMOVE),
    ],
)
def test_neighbours_are_those_of_the_sampler_in_use(place, config, relation):
    assert ledger(federated(place, **config), 6).relation == relation


def test_the_sum_counts_every_round_at_its_own_rate():
    """Two of three until client-0 joins in round 2, then two of four."""
    book = ledger(federated("sum", clients_per_round=2, sampling="poisson", first_round={"client-0": 3}), 5)
    assert counted(book.releases) == {"": {(2, 3): 2, (2, 4): 3}}
    assert book.epsilon == epsilon({(2, 3): 2, (2, 4): 3}, 2.0, 1e-5, ADD_OR_REMOVE)


def test_uploads_count_for_the_client_that_takes_part():
    mine = federated("upload", clients_per_round=2)
    played = Counter(client.name for number in range(6) for client in sample(mine, number))
    assert len(set(played.values())) > 1
    book = ledger(mine, 6)
    assert counted(book.releases) == {f"client-{k}": {(1, 1): played[f"client-{k}"]} for k in range(4)}
    assert book.epsilon == epsilon({(1, 1): max(played.values())}, 2.0, 1e-5, REPLACE)
    shown = guarantee(recipe_of(mine), mine, 6)["clients"]
    assert shown["client-0"] == epsilon({(1, 1): played["client-0"]}, 2.0, 1e-5, REPLACE)
    assert guarantee(recipe_of(mine), mine, 0)["clients"] == dict.fromkeys(shown, 0.0)


def test_gradients_count_by_the_client_s_own_rate_and_steps():
    """Clients hold 2, 3, 4, 5 examples; two of them a step, three steps a round."""
    mine = federated("gradient")
    book = ledger(mine, 4)
    assert counted(book.releases) == {f"client-{k}": {(2, k + 2): 12} for k in range(4)}
    assert book.epsilon == epsilon({(2, 2): 12}, 2.0, 1e-5, ADD_OR_REMOVE)
    longer = ledger(mine, 1, train=replace(TRAIN, epochs=2.0))
    assert counted(longer.releases)["client-3"] == {(2, 5): 5}


def test_a_longer_plan_counts_with_its_length():
    mine = replace(federated("gradient"), method=create("fdlora", {"stage_one": 4}))
    assert counted(ledger(mine, 3).releases)["client-1"] == {(2, 3): 3 * (4 + 1 + 1)}


SINGLE = st.tuples(st.integers(1, 4), st.integers(4, 6), st.integers(0, 5)).map(lambda t: {(t[0], t[1]): t[2]})


@settings(max_examples=8, deadline=None)
@given(st.lists(SINGLE, min_size=1, max_size=8))
def test_leaving_out_whoever_gave_less_never_changes_the_maximum(releases):
    left = undominated(releases)
    assert len(left) <= len(releases)
    every, costly = (max(epsilon(one, 3.0, 1e-5, ADD_OR_REMOVE) for one in many) for many in (releases, left))
    assert costly == every


@pytest.mark.parametrize("place", ["sum", "upload", "gradient"])
def test_epsilon_grows_with_the_rounds_and_the_budget_stops_before_the_one_too_many(place):
    mine = federated(place)
    costs = [ledger(mine, rounds).epsilon for rounds in range(7)]
    assert costs[0] == 0
    assert all(one < other for one, other in pairwise(costs))

    def stops(rounds: int, budget: float | None) -> str:
        return ledger(mine, rounds, budget=budget).over(*releases_of(mine, TRAIN, range(rounds, rounds + 1)))

    budget = (costs[3] + costs[4]) / 2
    assert [bool(stops(rounds, budget)) for rounds in range(6)] == [False] * 3 + [True] * 3
    assert stops(3, budget).startswith("round 4 would bring epsilon to")
    limited = recipe_of(mine, budget)
    assert guarantee(limited, mine, 3)["stopped"] == stops(3, budget)
    assert guarantee(limited, mine, 6)["stopped"] is None
    assert stops(5, None) == ""


def recipe(privacy: dict, method: str = "fedit", **sections) -> Recipe:
    values = {"level": "client", "noise": "central", "clip": 1.0, "delta": 1e-5, "noise_multiplier": 1.0} | privacy
    values = {key: value for key, value in values.items() if value is not None}
    return from_dict({"privacy": values, "method": {"name": method}, **sections})


def settle(wanted: Recipe, clients: int = 8) -> Recipe:
    """`resolved` on a federation without a model."""
    method = method_of(wanted)
    noise = Noise("sum", 1.0, wanted.privacy.noise_multiplier or 0.0, 11)
    federated = replace(federation(method, clients), config=wanted.federation, noise=noise)
    return resolved(wanted, federated)


def test_a_stated_epsilon_becomes_noise_and_a_budget():
    wanted = recipe({"epsilon": 3.0, "noise_multiplier": None}, federation={"rounds": 5})
    done = settle(wanted).privacy
    assert (done.epsilon, done.budget) == (None, 3.0)
    assert 2.9 < epsilon({(8, 8): 5}, done.noise_multiplier, 1e-5, ADD_OR_REMOVE) <= 3.0
    assert settle(replace(wanted, privacy=done)).privacy == done
    kept = settle(recipe({"epsilon": 3.0, "noise_multiplier": None, "budget": 2.0}, federation={"rounds": 5})).privacy
    assert kept.budget == 2.0


def test_a_budget_below_the_first_round_is_refused():
    with pytest.raises(ConfigError, match=r"privacy\.budget = 0\.5: round 1 would bring epsilon to 4\.\d"):
        settle(recipe({"budget": 0.5}))
    with pytest.raises(ConfigError, match=r"privacy\.budget = 5\.0: round 1 would bring epsilon to inf"):
        settle(recipe({"budget": 5.0, "noise_multiplier": 0.0}))


def test_what_clients_keep_rules_out_samples_of_fixed_size():
    fixed = {"federation": {"clients_per_round": 3}}
    for method, word in (("fedsrd", "error feedback"), ("fedsa-lora", "a memory of the method")):
        with pytest.raises(ConfigError, match=f"{word}; allowed is federation.sampling = poisson"):
            settle(recipe({}, method, **fixed))
        settle(recipe({}, method, federation={"clients_per_round": 3, "sampling": "poisson"}))
        settle(recipe({}, method, federation={"clients_per_round": 8}))
    with pytest.raises(ConfigError, match=r"train\.keep_optimizer"):
        settle(recipe({}, train={"keep_optimizer": True}, **fixed))
    settle(recipe({}, **fixed))


@pytest.mark.parametrize(
    ("privacy", "sections", "words"),
    [
        ({"level": None}, {}, r"privacy\.noise = 'central': allowed with privacy\.level = client or example only"),
        ({"clip": None}, {}, r"privacy\.clip is missing"),
        ({"delta": None}, {}, r"privacy\.delta is missing"),
        ({"noise": None}, {}, r"privacy\.noise is missing"),
        ({"level": "example"}, {}, r"privacy\.noise = 'central': allowed with privacy\.level = client only"),
        ({"epsilon": 2.0}, {}, r"privacy\.noise_multiplier and privacy\.epsilon: allowed is one of the two"),
        ({"noise_multiplier": None}, {}, r"allowed is one of the two"),
        ({"clip": -1.0}, {}, r"privacy\.clip = -1\.0: allowed is a number or nothing > 0"),
        ({"delta": 1.0}, {}, r"privacy\.delta = 1\.0: allowed"),
        ({"level": "patient"}, {}, r"privacy\.level = 'patient': allowed is .*client.*example"),
        ({"clop": 1.0}, {}, r"privacy\.clop is unknown; did you mean clip\?"),
        (
            {},
            {"federation": {"weights": "examples"}},
            r"federation\.weights = 'examples': with privacy",
        ),
        ({}, {"federation": {"sampling": "poisson"}}, r"federation\.sampling = 'poisson': needs"),
    ],
)
def test_bad_recipes_are_refused(privacy, sections, words):
    with pytest.raises(ConfigError, match=words):
        recipe(privacy, **sections)


@pytest.mark.parametrize(
    ("privacy", "method", "words"),
    [
        ({}, "local", "nothing travels; allowed is example"),
        ({}, "centralised", "nothing travels"),
        ({}, "flora", "not with flora: .*side by side; allowed is local"),
        ({}, "flexlora", "not with flexlora: the factors of an SVD are not a sum"),
    ],
)
def test_methods_that_it_makes_no_sense_for(privacy, method, words):
    with pytest.raises(ConfigError, match=words):
        method_of(recipe(privacy, method))
    if "travels" in words:
        method_of(recipe({"level": "example", "noise": None}, method))
    else:
        method_of(recipe({"noise": "local"}, method))


def test_several_processes_have_no_secret_in_common(monkeypatch):
    assert 0 <= draw_secret() < 2**256
    assert draw_secret() != draw_secret()
    monkeypatch.setattr(record, "here", lambda: ProcessPlace(0, 2))
    with pytest.raises(ConfigError, match=r"privacy\.seed = 'system': each of several processes"):
        draw_secret()


def test_poisson_samples_have_their_mean_and_vary():
    federated = federation(("fedit", {}), 40, clients_per_round=5, sampling="poisson")
    counts = [len(sample(federated, number)) for number in range(400)]
    assert sum(counts) / 400 == pytest.approx(5, abs=5 * math.sqrt(5 * 35 / 40 / 400))
    assert len(set(counts)) > 5
    assert expected_count(federated, 0) == 5
    assert counts == [len(sample(federated, number)) for number in range(400)]
    everyone = replace(federated, config=FederationConfig(clients_per_round=50, sampling="poisson"))
    assert len(sample(everyone, 0)) == 40


def test_samples_follow_from_the_secret():
    federated = federation(("fedit", {}), 40, clients_per_round=5)
    secret = replace(federated, noise=Noise("sum", 1.0, 1.0, 2**250 + 1))
    assert [c.name for c in sample(secret, 0)] != [c.name for c in sample(federated, 0)]
    assert first(federated).round == 0
