"""Do both sides mean the same by a tensor: hashes of base, tokenizer, template and start, and the wire's version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thinwire import __version__
from thinwire.data.config import DataConfig
from thinwire.identity import adapters_hash, of_base
from thinwire.session.opened import AdaptedBase
from thinwire.wire import FORMAT

WORDS = {
    "wire": "the wire format",
    "base": "the base model's weights",
    "tokenizer": "the tokenizer",
    "template": "the template",
    "start": "the adapter that the seed gives",
    "method": "the method's code",
}
"""What must agree, in words."""


def identity(opened: AdaptedBase, data: DataConfig) -> dict[str, Any]:
    """What a side reports of itself."""
    return {
        "wire": FORMAT,
        **of_base(opened.base, data),
        "start": adapters_hash(opened.start),
        "thinwire": __version__,
    }


def mismatch(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Why the two cannot work together, in words; empty if they can. Versions of thinwire may differ."""
    different = [
        f"{words} ({short(theirs.get(key))} there, {short(mine[key])} here)"
        for key, words in WORDS.items()
        if key in mine and theirs.get(key) != mine[key]
    ]
    return f"another {', '.join(different)}".replace("another the ", "it differs in the ") if different else ""


def short(value: Any) -> str:
    return str(value)[:12]
