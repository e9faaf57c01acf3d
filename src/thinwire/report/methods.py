"""The list of methods, for people and for programs."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any

from rich.table import Table

from thinwire.methods import METHODS, REFERENCES, create
from thinwire.own_methods import installed
from thinwire.presets import PRESETS
from thinwire.report.live import terminal
from thinwire.report.travel import travels
from thinwire.settings import APART, allowed
from thinwire.values import ValuesConfig


def describe() -> list[dict[str, Any]]:
    """Methods, presets and references: name, title, paper, what travels each way, and fields with default and range."""
    return [entry(name) for name in (*METHODS, *PRESETS, *REFERENCES, *installed())]


def entry(name: str) -> dict[str, Any]:
    """What there is to know of one of them."""
    method, preset = create(name), PRESETS.get(name)
    up, down = travels(method)
    return {
        "name": name,
        "title": method.title,
        "paper": method.paper,
        "preset_of": preset.method if preset else None,
        "up": up,
        "down": down,
        "summary": (method.__doc__ or "").split("\n")[0],
        "fields": settings_of(method),
        "values": settings_of(method.values),
    }


def settings_of(instance: Any) -> list[dict[str, Any]]:
    """The settings of a dataclass, with the instance's values as their defaults."""
    hints = typing.get_type_hints(type(instance))
    return [
        {
            "name": spec.name,
            "default": getattr(instance, spec.name),
            "allowed": allowed(spec, hints[spec.name]),
            "meaning": spec.metadata["doc"],
        }
        for spec in dataclasses.fields(instance)
        if APART not in spec.metadata
    ]


def as_json() -> str:
    return json.dumps(describe(), indent=1)


def print_methods() -> None:
    """A table of methods, then one of fields for each."""
    console = terminal()
    table = Table(title="methods")
    for name in ("method", "what it is", "paper", "up", "down"):
        table.add_column(name)
    for method in describe():
        table.add_row(method["name"], method["title"], method["paper"], method["up"], method["down"])
    console.print(table)
    for method in describe():
        if method["fields"]:
            console.print(table_of(f"{method['name']}: fields (--set method.FIELD=VALUE)", method["fields"]))
    values = settings_of(ValuesConfig())
    console.print(table_of("with every method: [values] (--set values.FIELD=VALUE)", values))


def table_of(title: str, settings: list[dict[str, Any]]) -> Table:
    """Settings with default, range and meaning."""
    table = Table(title=title, title_justify="left")
    for name in ("field", "default", "allowed", "meaning"):
        table.add_column(name)
    for each in settings:
        default = "" if each["default"] is None else json.dumps(each["default"])
        table.add_row(each["name"], default, each["allowed"], each["meaning"])
    return table
