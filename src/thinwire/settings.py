"""Declared, checked settings: one way to say a field's default, meaning and range, for methods and recipes alike."""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args, get_origin

T = TypeVar("T")

APART = "apart"
"""In the metadata of a field that `build` does not fill: a section of its own says it."""


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type or out of range; the text names field, value and what is allowed."""


def setting(
    default: Any = dataclasses.MISSING,
    doc: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Iterable[str] | None = None,
    factory: Any = dataclasses.MISSING,
) -> Any:
    """A dataclass field with its meaning and range: `low <= x <= high`, `above < x < below`, or one of `choices`."""
    limits = {"low": low, "high": high, "above": above, "below": below, "choices": tuple(choices) if choices else None}
    metadata = {"doc": doc} | {key: value for key, value in limits.items() if value is not None}
    return dataclasses.field(default=default, default_factory=factory, metadata=metadata)


def allowed(spec: dataclasses.Field[Any], annotation: Any) -> str:
    """What a field accepts, in words."""
    meta = spec.metadata
    if "choices" in meta:
        words = "one of " + ", ".join(meta["choices"])
        return words + " or nothing" if _optional(annotation) else words
    words = _type_name(annotation)
    bounds = [f"{sign} {meta[key]:g}" for key, sign in _SIGNS.items() if key in meta]
    return " ".join([words, " and ".join(bounds)]).strip()


def check(instance: Any, where: str = "") -> None:
    """Check every declared field of a dataclass instance; ints are widened to floats in place. Raises: ConfigError."""
    hints = typing.get_type_hints(type(instance))
    for spec in dataclasses.fields(instance):
        value = getattr(instance, spec.name)
        good = _coerce(value, hints[spec.name])
        if good is _WRONG or not _in_range(good, spec.metadata):
            name = f"{where}.{spec.name}" if where else spec.name
            raise ConfigError(f"{name} = {value!r}: allowed is {allowed(spec, hints[spec.name])}")
        if good is not value:
            object.__setattr__(instance, spec.name, good)


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """An instance of dataclass `cls`. Raises: ConfigError for an unknown key (with the nearest one) or a bad value."""
    specs = dataclasses.fields(cls)  # type: ignore[arg-type]
    known = {spec.name: spec for spec in specs if APART not in spec.metadata}
    for key in values:
        if key not in known:
            raise unknown(f"{where}.{key}" if where else key, key, known)
    missing = [n for n, s in known.items() if n not in values and _required(s)]
    if missing:
        meaning = known[missing[0]].metadata.get("doc", "it must be given")
        raise ConfigError(f"{where}.{missing[0]} is missing: {meaning}")
    instance = cls(**values)
    check(instance, where)
    return instance


def unknown(name: str, key: str, known: Iterable[str]) -> ConfigError:
    """The error for a key or name that does not exist, with the nearest one that does."""
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return ConfigError(f"{name} is unknown{hint} Allowed: {listed(known) or 'none'}")


def listed(names: Iterable[str], most: int = 30, between: str = ", ") -> str:
    """The names in one line; beyond `most`, how many more there are."""
    names = list(names)
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return between.join(names[:most] + more)


def shown(text: str, most: int = 500) -> str:
    """A text from outside as it may be printed: one line, what cannot be seen or moves the cursor as its code."""
    whole = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    return whole if len(whole) <= most else f"{whole[:most]}..."


_SIGNS = {"low": ">=", "above": ">", "high": "<=", "below": "<"}
_HOLDS = {"low": operator.ge, "above": operator.gt, "high": operator.le, "below": operator.lt}
_WRONG = object()


def _required(spec: dataclasses.Field[Any]) -> bool:
    return spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING


def _optional(annotation: Any) -> bool:
    return type(None) in get_args(annotation)


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        names = ["nothing" if arg is type(None) else _type_name(arg) for arg in get_args(annotation)]
        return " or ".join(sorted(names, key=lambda name: name == "nothing"))
    if origin is tuple:
        return f"a list of {_type_name(get_args(annotation)[0])}"
    if origin is dict:
        return f"a table of {_type_name(get_args(annotation)[1])} by name"
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a text", Any: "anything"}
    return words.get(annotation, str(annotation))


def _coerce(value: Any, annotation: Any) -> Any:
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        tries = (_coerce(value, arg) for arg in args)
        return next((good for good in tries if good is not _WRONG), _WRONG)
    if origin is tuple:
        items = [_coerce(item, args[0]) for item in value] if isinstance(value, list | tuple) else [_WRONG]
        return _WRONG if any(item is _WRONG for item in items) else tuple(items)
    if origin is dict:
        if not isinstance(value, dict):
            return _WRONG
        entries = {key: _coerce(item, args[1]) for key, item in value.items()}
        bad = any(item is _WRONG or not isinstance(key, str) for key, item in entries.items())
        return _WRONG if bad else entries
    if annotation is float:
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000:
            value = float(value)
        return value if isinstance(value, float) and math.isfinite(value) else _WRONG
    if annotation is int and isinstance(value, bool):
        return _WRONG
    return value if isinstance(value, annotation) else _WRONG


def _in_range(value: Any, meta: Mapping[str, Any]) -> bool:
    if value is None:
        return True
    if isinstance(value, dict | tuple):
        return all(_in_range(item, meta) for item in (value.values() if isinstance(value, dict) else value))
    if "choices" in meta:
        return value in meta["choices"]
    if not isinstance(value, int | float):
        return True
    return all(holds(value, meta[limit]) for limit, holds in _HOLDS.items() if limit in meta)
