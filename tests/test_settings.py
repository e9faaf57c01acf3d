"""Every field of every section and method: what it accepts and what it refuses, from what it declares."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from typing import Any

import pytest

from thinwire.config import SECTIONS
from thinwire.methods import METHODS, REFERENCES
from thinwire.settings import APART, ConfigError, allowed, build, check, setting, unknown

OWNERS = {**SECTIONS, **{f"method {name}": method for name, method in {**METHODS, **REFERENCES}.items()}}
FIELDS = [
    (where, cls, spec)
    for where, cls in OWNERS.items()
    for spec in dataclasses.fields(cls)
    if APART not in spec.metadata
]

WRONG_TYPES: dict[Any, list[Any]] = {
    int: ["1", 1.5, True, [1], {}],
    float: ["1.0", True, [1.0], {}, math.nan, math.inf, -math.inf, 10**400],
    bool: [0, 1, "true", [], 1.0],
    str: [1, True, [], {}, 0.5],
    tuple: ["text", 1, [1], [None], {"a": "b"}],
    dict: [[], "text", 1, {"name": "text"}, {"name": True}, {"name": 1.5}],
}


def plain(annotation: Any) -> tuple[Any, bool]:
    """(int, float, bool, str, tuple or dict; whether nothing is allowed too)."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        (inner,) = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
        return plain(inner)[0], True
    return typing.get_origin(annotation) or annotation, False


def edges(spec: dataclasses.Field[Any], kind: Any, item: Any) -> tuple[list[Any], list[Any]]:
    """(values at the edge that are in, values just outside), by the declared range. item: the type in a list."""
    meta, inside, outside = spec.metadata, [], []
    small = 1 if int in (kind, item) or kind is dict else 1e-9
    for key, sign in (("low", -1), ("high", 1)):
        if key in meta:
            inside.append(meta[key])
            outside += [meta[key] + sign * small, meta[key] + sign * 1000]
    for key, sign in (("above", 1), ("below", -1)):
        if key in meta:
            inside.append(meta[key] + sign * small)
            outside += [meta[key], meta[key] - sign * 1000]
    if "choices" in meta:
        inside += list(meta["choices"])
        outside += ["", "nonsense", meta["choices"][0].upper()]
    if kind is dict:
        return [{"name": value} for value in inside], [{"name": value} for value in outside]
    if kind is tuple:
        return [(item(value),) for value in inside], [(item(value),) for value in outside]
    return [kind(value) for value in inside], [kind(value) for value in outside]


def wrong(kind: Any, item: Any) -> list[Any]:
    """Values of another type."""
    return [value for value in WRONG_TYPES[kind] if not (value == [1] and item in (int, float))]


@pytest.mark.parametrize(("where", "cls", "spec"), FIELDS, ids=lambda value: getattr(value, "name", None))
def test_every_field_refuses_what_it_does_not_declare(where, cls, spec):
    annotation = typing.get_type_hints(cls)[spec.name]
    kind, optional = plain(annotation)
    item = typing.get_args(annotation)[0] if kind is tuple else None
    good, bad = edges(spec, kind, item)
    for value in good:
        made = getattr(build(cls, {spec.name: value}), spec.name)
        assert made == value
        assert type(made) is type(value)
    assert optional == _accepts(cls, spec.name, None)
    for value in [*bad, *wrong(kind, item)]:
        with pytest.raises(ConfigError) as caught:
            build(cls, {spec.name: value}, where)
        text = str(caught.value)
        assert spec.name in text
        assert repr(value) in text
        assert allowed(spec, annotation) in text


@pytest.mark.parametrize(("where", "cls", "spec"), FIELDS, ids=lambda value: getattr(value, "name", None))
def test_every_field_says_what_it_means(where, cls, spec):
    assert len(spec.metadata["doc"]) > 5
    assert allowed(spec, typing.get_type_hints(cls)[spec.name])


@pytest.mark.parametrize("where", OWNERS)
def test_a_misspelt_key_suggests_the_right_one(where):
    for name in [spec.name for own, _, spec in FIELDS if own == where]:
        wrong = name[:-1] + name[-1] * 2
        with pytest.raises(ConfigError, match=rf"{where}\.{wrong} is unknown; did you mean {name}\? Allowed: .*{name}"):
            build(OWNERS[where], {wrong: 1}, where)
    with pytest.raises(ConfigError, match=r"zzzzzz is unknown\. Allowed: "):
        build(OWNERS[where], {"zzzzzz": 1}, where)


def test_whole_numbers_become_numbers_and_lists_become_tuples():
    @dataclass(frozen=True)
    class Sample:
        needed: int = setting(doc="how many")
        rate: float = setting(0.5, "a rate", low=0, high=1)
        names: tuple[str, ...] = setting((), "names", choices=("a", "b"))

    made = build(Sample, {"rate": 1, "names": ["a", "b"], "needed": 3})
    assert made == Sample(3, 1.0, ("a", "b"))
    assert isinstance(made.rate, float)
    with pytest.raises(ConfigError, match=r"here\.needed is missing: how many"):
        build(Sample, {}, "here")
    with pytest.raises(ConfigError, match=r"names = .*allowed is one of a, b"):
        build(Sample, {"names": ["a", "c"], "needed": 3})
    with pytest.raises(ConfigError, match=r"^rate = 2\.0: allowed is a number >= 0 and <= 1$"):
        check(Sample(rate=2.0, needed=1))


def test_methods_check_themselves():
    with pytest.raises(ConfigError, match=r"base_rate = 1\.0: allowed is a number >= 0 and < 1"):
        METHODS["fedsrd"](base_rate=1.0)


def test_unknown_names_are_sorted():
    assert str(unknown("x", "x", ["b", "a"])) == "x is unknown. Allowed: a, b"


def _accepts(cls: Any, name: str, value: Any) -> bool:
    try:
        build(cls, {name: value})
    except ConfigError:
        return False
    return True
