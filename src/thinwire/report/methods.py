"""The list of methods, for people and for programs."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any

from rich.table import Table

from thinwire.methods import METHODS
from thinwire.report.live import terminal
from thinwire.settings import allowed


def describe() -> list[dict[str, Any]]:
    """Every method: name, title, paper, what travels each way, fields with default, range and meaning."""
    return [
        {
            "name": method.name,
            "title": method.title,
            "paper": method.paper,
            "up": method.up_words,
            "down": method.down_words,
            "summary": (method.__doc__ or "").split("\n")[0],
            "fields": [
                {
                    "name": spec.name,
                    "default": spec.default,
                    "allowed": allowed(spec, typing.get_type_hints(method)[spec.name]),
                    "meaning": spec.metadata.get("doc", ""),
                }
                for spec in dataclasses.fields(method)
            ],
        }
        for method in METHODS.values()
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
        fields = Table(title=f"{method['name']}: fields (--set method.FIELD=VALUE)", title_justify="left")
        for name in ("field", "default", "allowed", "meaning"):
            fields.add_column(name)
        for field in method["fields"]:
            default = "" if field["default"] is None else json.dumps(field["default"])
            fields.add_row(field["name"], default, field["allowed"], field["meaning"])
        console.print(fields)
