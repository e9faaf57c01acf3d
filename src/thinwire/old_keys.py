"""Keys of recipes that had another name or another place: still read, each with a note."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from thinwire.presets import PRESETS
from thinwire.settings import ConfigError
from thinwire.values import ValuesConfig

LOG = logging.getLogger("thinwire")
MOVED = {spec.name for spec in fields(ValuesConfig)}
"""From [method] to [values]."""
RENAMED = {"rule": "upload"}
"""Within [method]."""


def modern(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's tables with every key where it is now. Raises: ConfigError for a key given twice."""
    recipe = _first_round(recipe)
    method, values = recipe.get("method"), recipe.get("values", {})
    if not isinstance(method, Mapping) or not isinstance(values, Mapping):
        return dict(recipe)
    now, moved = {}, {}
    for key, value in method.items():
        if key in MOVED:
            _note(f"method.{key}", f"values.{key}", key in values)
            moved[key] = value
        elif key in RENAMED:
            _note(f"method.{key}", f"method.{RENAMED[key]}", RENAMED[key] in method)
            now[RENAMED[key]] = value
        else:
            now[key] = value
    now = _faithful(now)
    return {**recipe, "method": now, **({"values": {**values, **moved}} if moved else {})}


def _first_round(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """`join` counted rounds from 0."""
    federation = recipe.get("federation")
    if not isinstance(federation, Mapping) or not isinstance(join := federation.get("join"), Mapping):
        return recipe
    _note("federation.join", "federation.first_round, and counts from 1", "first_round" in federation)
    rest = {key: value for key, value in federation.items() if key != "join"}
    first = {client: number + 1 if isinstance(number, int) else number for client, number in join.items()}
    return {**recipe, "federation": {**rest, "first_round": first}}


def _faithful(method: Mapping[str, Any]) -> dict[str, Any]:
    """`faithful` is a preset now."""
    official = f"{method.get('name')}-official"
    if "faithful" not in method or official not in PRESETS:
        return dict(method)
    rest = {key: value for key, value in method.items() if key != "faithful"}
    if method["faithful"] is not True:
        return rest
    LOG.warning("method.faithful: write method.name = %r instead", official)
    return {**rest, "name": official}


def _note(old: str, new: str, both: bool) -> None:
    if both:
        raise ConfigError(f"{old}: it is called {new} now, which is given, too; allowed is {new} alone")
    LOG.warning("%s: it is called %s now", old, new)
