"""Recipes: TOML, --set, and what no single field can say; whatever comes in, only ConfigError may come out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from thinwire.config import SECTIONS, Recipe, from_dict, load_recipe
from thinwire.settings import ConfigError
from thinwire.values import ValuesConfig

NAMES = [*SECTIONS, "method", "federations", ""]
KEYS = [spec.name for cls in SECTIONS.values() for spec in dataclasses.fields(cls)] + ["name", "base_rate", "x.y", ""]
SCALARS = some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=5)
VALUES = some.recursive(
    SCALARS,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
TABLES = some.dictionaries(some.sampled_from(KEYS) | some.text(max_size=5), VALUES, max_size=4)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "recipe.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_embedded_default_is_a_valid_recipe():
    recipe = load_recipe(None)
    assert recipe.model.name == "embedded"
    assert recipe.data.source == "generator"
    assert recipe.method["name"] == "fedsrd"


def test_a_file_and_changes_to_it(tmp_path):
    path = write(tmp_path, '[train]\nsteps = 3\n[method]\nname = "fedit"\n[data]\nclients = ["a"]\n')
    changes = ["train.steps = 4", "lora.targets=['q', 'v']", "run.output=out folder", "values.precision=float32"]
    recipe = load_recipe(path, [*changes, "federation.first_round.late=2", "train.learning_rate=1e-3"])
    assert recipe.train.steps == 4
    assert recipe.lora.targets == ("q", "v")
    assert recipe.run.output == "out folder"
    assert recipe.method == {"name": "fedit"}
    assert recipe.values.precision == "float32"
    assert recipe.federation.first_round == {"late": 2}
    assert recipe.train.learning_rate == 1e-3
    assert recipe.data.clients == ("a",)


def test_a_recipe_survives_json():
    recipe = load_recipe(None, ["federation.first_round.code=1", "data.clients=['code', 'math']"])
    assert from_dict(json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[train]\nsteps = \n", "malformed TOML"),
        ("[train\n", "malformed TOML"),
        (b"\xff\xfe", "not text in UTF-8"),
        ("[trian]\nsteps = 1\n", r"section \[trian\] is unknown; did you mean train\?"),
        ("train = 3\n", r"train = 3: allowed is a table, \[train\]"),
        ("[train]\nstep = 1\n", r"train\.step is unknown; did you mean steps\?"),
        ("[train]\nsteps = 0\n", r"train\.steps = 0: allowed is an integer >= 1"),
        ("[train]\nsteps = 1.5\n", r"train\.steps = 1\.5: allowed is an integer"),
        ("[train]\nmomentum = 0.9\n", r"train\.momentum = 0\.9: allowed with train\.optimizer = sgd"),
        ("[train]\nwarmup = 1000\n", r"train\.warmup = 1000: allowed is at most 100"),
        ("[model]\nbits = 5\n", r"model\.bits = 5: allowed is 4, 8"),
        ('[data]\npartition = "column"\n', r"data\.column is missing"),
        ("[method]\nname = 3\n", r"method\.name = 3"),
        ("[method]\nbase_rate = 0.5\n", r"method\.name = None"),
        ("[federation.first_round]\ncode = -1\n", r"federation\.first_round = \{'code': -1\}: allowed is a table"),
        ("[federation.first_round]\ncode = 'x'\n", r"federation\.first_round = "),
        ("a = " + "[" * 5000, "malformed TOML"),
        ("a = " + "9" * 5000, "malformed TOML"),
    ],
)
def test_bad_recipes_are_named(text, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        load_recipe(write(tmp_path, text))


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_recipe(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_recipe(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train", "allowed is SECTION.KEY=VALUE"),
        ("train=3", "allowed is SECTION.KEY=VALUE"),
        ("train.steps", "allowed is SECTION.KEY=VALUE"),
        ("=3", "allowed is SECTION.KEY=VALUE"),
        ("train.=3", "allowed is SECTION.KEY=VALUE"),
        (".steps=3", "is unknown"),
        ("train.steps=", "train.steps = ''"),
        ("train.steps=many", "train.steps = 'many'"),
        ("trian.steps=3", "did you mean train"),
        ("train.stesp=3", "did you mean steps"),
        ("lora.rank.x=3", "lora.rank = 16 is not a table"),
        ("train.steps.x.y=3", "train.steps = 3 is not a table"),
        ("train.steps=3\nbatch=4", "train.steps = "),
        ("train.learning_rate=" + "9" * 400, "train.learning_rate = "),
        ("train.learning_rate=nan", "train.learning_rate = nan"),
    ],
)
def test_misuse_of_set_is_named(change, words):
    with pytest.raises(ConfigError, match=words):
        load_recipe(None, [change])


def comes_out(made: Callable[[], Recipe]) -> str:
    """A recipe, or the words of a ConfigError; anything else fails the test."""
    try:
        return repr(made())
    except ConfigError as error:
        return str(error)


@settings(max_examples=300, deadline=None)
@given(some.dictionaries(some.sampled_from(NAMES) | some.text(max_size=5), TABLES | VALUES, max_size=4))
def test_any_table_gives_a_recipe_or_a_config_error(values):
    assert comes_out(lambda: from_dict(values))


@settings(max_examples=300, deadline=None)
@given(some.sampled_from(NAMES), some.sampled_from(KEYS) | some.text(max_size=8), some.text(max_size=20))
def test_any_change_gives_a_recipe_or_a_config_error(section, key, value):
    for text in (f"{section}.{key}={value}", f"{section}.{key}.{value}=1", value):
        assert comes_out(lambda text=text: load_recipe(None, [text]))


@settings(max_examples=100, deadline=None)
@given(content=some.binary(max_size=40) | some.text(max_size=40).map(str.encode))
def test_any_file_gives_a_recipe_or_a_config_error(content, tmp_path_factory):
    assert comes_out(lambda: load_recipe(write(tmp_path_factory.mktemp("fuzz"), content)))


def test_a_byte_order_mark_in_a_recipe_is_passed_over(tmp_path):
    (tmp_path / "r.toml").write_bytes(b"\xef\xbb\xbf[run]\nseed = 7\n")
    assert load_recipe(tmp_path / "r.toml").run.seed == 7


def test_a_client_joined_in_rounds_counted_from_0(caplog):
    assert from_dict({"federation": {"join": {"late": 2}}}).federation.first_round == {"late": 3}
    assert "federation.join: it is called federation.first_round, and counts from 1 now" in caplog.text
    with pytest.raises(ConfigError, match=r"federation.first_round, and counts from 1 now, which is given, too"):
        from_dict({"federation": {"join": {"late": 2}, "first_round": {"late": 3}}})
    with pytest.raises(ConfigError, match=r"federation\.first_round = .*: allowed is a table"):
        from_dict({"federation": {"join": {"late": "soon"}}})
    with pytest.raises(ConfigError, match=r"federation\.join"):
        from_dict({"federation": {"join": 3}})


def test_old_keys_are_read_with_a_note(caplog):
    old = {"method": {"name": "fedsrd", "faithful": True, "rule": "budget", "bits_up": 4, "cap": 0.2}}
    recipe = from_dict(old)
    assert recipe.method == {"name": "fedsrd-official", "upload": "budget", "cap": 0.2}
    assert recipe.values == ValuesConfig(bits_up=4)
    notes = [record.getMessage() for record in caplog.records]
    assert notes == [
        "method.rule: it is called method.upload now",
        "method.bits_up: it is called values.bits_up now",
        "method.faithful: write method.name = 'fedsrd-official' instead",
    ]
    assert from_dict(json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe
    assert len(caplog.records) == 3, "what is written has no old keys"
    assert from_dict({"method": {"name": "fedsrd", "faithful": False}}).method == {"name": "fedsrd"}
    with pytest.raises(ConfigError, match=r"method.bits_up: it is called values.bits_up now, which is given, too"):
        from_dict({"method": {"name": "fedit", "bits_up": 4}, "values": {"bits_up": 2}})
    with pytest.raises(ConfigError, match=r"values.bits_up = 9: allowed is an integer >= 0 and <= 8"):
        from_dict({"method": {"name": "fedit", "bits_up": 9}})


def test_a_preset_has_values_of_its_own_that_a_recipe_may_change():
    assert from_dict({"method": {"name": "flocora"}}).values == ValuesConfig("float32", 8, 8, "channel")
    four = from_dict({"method": {"name": "flocora"}, "values": {"bits_up": 4}})
    assert four.values == ValuesConfig("float32", 4, 8, "channel")
    assert from_dict(json.loads(json.dumps(dataclasses.asdict(four)))) == four
