"""Who the clients are: tiers, tables and a function; and combinations that are refused with the reason."""

from __future__ import annotations

import sys
import types

import pytest

from thinwire.compatibility import reasons, takes_densities, takes_ranks
from thinwire.config import FederationConfig, from_dict
from thinwire.engine.clients import clients_of
from thinwire.methods import METHODS, create
from thinwire.session.opened import method_of
from thinwire.settings import ConfigError

SIZES = {"north": 10, "east": 20, "south": 30, "west": 40}


def ranks(largest=16, **config):
    return {client.name: client.rank for client in clients_of(FederationConfig(**config), SIZES, largest)}


def test_tiers_go_round_in_the_order_of_names():
    assert ranks() == dict.fromkeys(SIZES)
    assert ranks(ranks=(1, 4, 16)) == {"east": 1, "north": 4, "south": 16, "west": 1}
    found = clients_of(FederationConfig(densities=(0.25, 1.0)), SIZES, 16)
    assert [client.density for client in found] == [0.25, 1.0, 0.25, 1.0]
    assert [(client.index, client.examples) for client in found] == [(0, 20), (1, 10), (2, 30), (3, 40)]


def test_a_table_goes_before_the_tiers():
    assert ranks(ranks=(1, 4), rank_of={"west": 8}) == {"east": 1, "north": 4, "south": 1, "west": 8}
    found = clients_of(FederationConfig(densities=(0.5,), density_of={"east": 0.1}), SIZES, 16)
    assert [client.density for client in found] == [0.1, 0.5, 0.5, 0.5]


@pytest.fixture
def capable(monkeypatch):
    module = types.ModuleType("capable")
    module.by_size = lambda client: 1 + client.examples // 10
    module.half = lambda client: 0.5
    module.number = 3
    monkeypatch.setitem(sys.modules, "capable", module)


def test_a_function_gives_the_ranks(capable):
    assert ranks(capability="capable:by_size") == {"east": 3, "north": 2, "south": 4, "west": 5}
    assert ranks(capability="capable:by_size", rank_of={"east": 9})["east"] == 9


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"ranks": (4, 32)}, "rank 32 of client north: allowed is 1 to lora.rank = 16"),
        ({"rank_of": {"nobody": 4}}, "federation.rank_of.nobody: no such client"),
        ({"density_of": {"nobody": 0.5}}, "federation.density_of.nobody: no such client"),
        ({"capability": "capable:half"}, r"gave 0.5; allowed is an integer"),
        ({"capability": "capable:number"}, "not a function"),
        ({"capability": "capable:absent"}, "allowed is package.module:function"),
        ({"capability": "no.such:thing"}, "allowed is package.module:function"),
        ({"capability": "capable"}, "allowed is package.module:function"),
    ],
)
def test_what_is_wrong_is_named(capable, config, words):
    with pytest.raises(ConfigError, match=words):
        ranks(**config)


def together(name, **sections):
    fields = sections.pop("method", {})
    method_of(from_dict({**sections, "method": {"name": name, **fields}}))


SERVER = {"server": {"optimizer": "adam", "learning_rate": 0.01}}


@pytest.mark.parametrize(
    ("name", "sections", "words"),
    [
        ("fedit", {"federation": {"ranks": [1, 4]}}, "fedit needs the same rank everywhere; allowed with .*flora"),
        ("fedsrd", {"federation": {"rank_of": {"a": 4}}}, "fedsrd needs the same rank"),
        ("ffa-lora", {"federation": {"capability": "m:f"}}, "ffa-lora needs the same rank"),
        ("hetlora", {"federation": {"densities": [0.5]}}, "hetlora has no density of its own; allowed with flasc"),
        ("flora", SERVER, "server.optimizer = 'adam': not with flora: the stack is merged into the base"),
        ("flexlora", SERVER, "not with flexlora: the factors of an SVD"),
        ("flora", {"train": {"keep_optimizer": True}}, "keep_optimizer = true: not with flora: each round starts"),
        ("flexlora", {"train": {"keep_optimizer": True}}, "not with flexlora: the factors of each round"),
        ("local", SERVER, "not with local: nothing reaches a server"),
        ("centralised", {"train": {"proximal": 0.1}}, "not with centralised: it follows no global model"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(name, sections, words):
    with pytest.raises(ConfigError, match=words):
        together(name, **sections)


@pytest.mark.parametrize("name", METHODS)
def test_what_makes_sense_is_allowed(name):
    method = create(name)
    if takes_ranks(method):
        together(name, federation={"ranks": [1, 4]})
    if takes_densities(method):
        together(name, federation={"densities": [0.1, 1.0]})
    if "server optimizer" not in reasons(method):
        together(name, **SERVER)
    together(name, train={"proximal": 0.1})
