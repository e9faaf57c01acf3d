"""What goes together: the same answer, with the same reason, for a recipe, across sites and for an app of Flower's."""

from __future__ import annotations

import pytest

from thinwire.compatibility import check_across, check_app, check_together, reasons, takes_densities, takes_ranks
from thinwire.config import FederationConfig, from_dict
from thinwire.methods import METHODS, REFERENCES, create
from thinwire.parts import ASKED
from thinwire.privacy.config import PrivacyConfig
from thinwire.server_optimizer import ServerConfig
from thinwire.session.opened import method_of
from thinwire.settings import ConfigError

ADAM = {"optimizer": "adam", "learning_rate": 0.01}
CENTRAL = {"level": "client", "noise": "central", "clip": 1.0, "noise_multiplier": 1.0, "delta": 1e-5}


def from_recipe(name, sections):
    method_of(from_dict({**sections, "method": {"name": name}}))


def from_settings(check):
    kinds = {"federation": FederationConfig, "server": ServerConfig, "privacy": PrivacyConfig}

    def ask(name, sections):
        given = {key: kinds[key](**values) for key, values in sections.items()}
        check(create(name), given.pop("federation", FederationConfig()), **given)

    return ask


EVERYWHERE = {
    "recipe": from_recipe,
    "together": from_settings(check_together),
    "across": from_settings(check_across),
    "app": from_settings(check_app),
}


@pytest.mark.parametrize("asked", EVERYWHERE.values(), ids=list(EVERYWHERE))
@pytest.mark.parametrize(
    ("name", "sections", "words"),
    [
        ("flexlora", {"server": ADAM}, "server.optimizer = 'adam': not with flexlora: the factors of an SVD"),
        ("flexlora", {"privacy": CENTRAL}, "privacy.noise = 'central': not with flexlora: .* not a sum over clients"),
        ("fedit", {"federation": {"ranks": (1, 2)}}, "fedit needs the same rank everywhere; allowed with flasc, .*"),
        ("fedit", {"federation": {"densities": (0.1,)}}, "fedit has no density of its own; allowed with flasc"),
        ("fedit", {"federation": {"sampling": "poisson"}}, "needs federation.clients_per_round"),
        ("fedit", {"server": {"learning_rate": 0.1}}, "server.learning_rate = 0.1: allowed with .* sgd, adam or yogi"),
        ("fedit", {"server": {"optimizer": "adam", "momentum": 0.9}}, "server.momentum = 0.9: allowed with .* = sgd"),
        ("fedit", {"server": {"optimizer": "sgd", "beta1": 0.5}}, "server.beta1 = 0.5: allowed with .* = adam or yogi"),
        ("fedit", {"server": {"weight_decay": 0.1}}, "server.weight_decay = 0.1: allowed with"),
        ("fedit", {"privacy": {**CENTRAL, "clip": None}}, "privacy.clip is missing"),
        ("local", {"server": ADAM}, "nothing reaches a server|nothing travels"),
        ("local", {"privacy": CENTRAL}, "nothing travels"),
    ],
)
def test_the_same_is_refused_everywhere(asked, name, sections, words):
    with pytest.raises(ConfigError, match=words):
        asked(name, sections)


@pytest.mark.parametrize("asked", EVERYWHERE.values(), ids=list(EVERYWHERE))
def test_what_makes_sense_is_allowed_everywhere(asked):
    asked("fedit", {"server": ADAM})
    asked("fedit", {"server": {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.5}})
    asked("fedit", {"privacy": CENTRAL})
    asked("hetlora", {"federation": {"ranks": (1, 2)}})


@pytest.mark.parametrize("name", list(REFERENCES))
def test_references_stay_on_one_machine(name):
    with pytest.raises(ConfigError, match=f"method.name = '{name}': not with {name}: nothing travels"):
        check_across(create(name), FederationConfig())


@pytest.mark.parametrize("name", ["flora", "fedex-lora"])
def test_a_state_dict_carries_nothing_that_is_merged(name):
    check_across(create(name), FederationConfig())
    with pytest.raises(ConfigError, match="which a state dict cannot carry"):
        check_app(create(name), FederationConfig())


def test_what_parts_say_is_what_is_asked():
    for name in (*METHODS, *REFERENCES):
        assert set(reasons(create(name))) <= set(ASKED), name


def test_ranks_and_densities_are_found_by_asking():
    assert [name for name in METHODS if takes_ranks(create(name))] == ["flasc", "flora", "hetlora", "flexlora"]
    assert [name for name in METHODS if takes_densities(create(name))] == ["flasc"]
    assert takes_ranks(create("flasc", {"rows": "largest"}))
