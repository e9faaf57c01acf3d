"""Do both sides mean the same by a tensor: hashes of base, tokenizer, template and start, and the wire's version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from thinwire import __version__
from thinwire.adapters import Adapters
from thinwire.config import DataConfig
from thinwire.data.templates import texts
from thinwire.data.values import Record
from thinwire.simulation.session import Session
from thinwire.wire import FORMAT

WORDS = {
    "wire": "the wire format",
    "base": "the base model's weights",
    "tokenizer": "the tokenizer",
    "template": "the template",
    "start": "the adapter that the seed gives",
}
"""What must agree, in words."""

PROBE = ("Count: 1, 2, 10!", "Ünïcode\n\ttext", "Three.")
"""Instruction, context and response of a record that both sides write out."""


def identity(session: Session) -> dict[str, Any]:
    """What a side reports of itself."""
    return {
        "wire": FORMAT,
        "base": session.base.fingerprint,
        "tokenizer": tokenizer_hash(session.base.tokenizer),
        "template": template_hash(session.recipe.data, session.base.tokenizer),
        "start": adapters_hash(session.start),
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


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 over the vocabulary, the special tokens and how a probe text is cut; empty where images are read."""
    if tokenizer is None:
        return ""
    vocabulary = sorted(tokenizer.get_vocab().items())
    probe = tokenizer("".join(PROBE), verbose=False)["input_ids"]
    return sha256(json.dumps([vocabulary, sorted(tokenizer.all_special_tokens), probe]))


def template_hash(config: DataConfig, tokenizer: Any) -> str:
    """SHA-256 over the template's name, the longest sequence, and what a probe record becomes."""
    columns = Record(dict(zip((config.instruction, config.context, config.response), PROBE, strict=True)))
    written = texts(columns, tokenizer, config)
    return sha256(json.dumps([config.template, config.max_length, *written]))


def adapters_hash(adapters: Adapters) -> str:
    """SHA-256 over every tensor's key, shape and bytes, and every site's scale."""
    digest = hashlib.sha256()
    for key, tensor in adapters.items():
        digest.update(f"{key} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    digest.update(json.dumps({name: site.scale for name, site in sorted(adapters.sites.items())}).encode())
    return digest.hexdigest()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
