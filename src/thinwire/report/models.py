"""The list of known models, for people and for programs."""

from __future__ import annotations

import json
from typing import Any

from thinwire.known_models import KNOWN, KnownModel
from thinwire.report.live import terminal


def describe() -> list[dict[str, Any]]:
    """Known models: name, title, licence, tasks, parameters, packages, bytes, and the folder of those fetched."""
    return [entry(model) for model in KNOWN.values()]


def entry(model: KnownModel) -> dict[str, Any]:
    """What there is to know of one of them; sizes in bytes."""
    return {
        "name": model.name,
        "title": model.title,
        "licence": model.licence,
        "tasks": list(model.tasks),
        "parameters": model.parameters,
        "packages": model.requirements,
        "download": model.download,
        "stored": model.stored,
        "folder": str(model.folder) if model.here else None,
    }


def as_json() -> str:
    return json.dumps(describe(), indent=1)


def print_models() -> None:
    """A paragraph for each."""
    console = terminal(soft_wrap=True)
    for each in describe():
        lines = {
            "licence": each["licence"],
            "size": f"{each['parameters'] / 1e6:.0f} million parameters; {each['download'] / 1e6:.0f} MB to download, "
            f"{each['stored'] / 1e6:.0f} MB kept",
            "tasks": ", ".join(each["tasks"]),
            "from": ", ".join(each["packages"]),
            "here": each["folder"] or f"no; thinwire models get {each['name']}",
        }
        console.print(f"{each['name']}: {each['title']}")
        for name, words in lines.items():
            console.print(f"  {name:8} {words}")
