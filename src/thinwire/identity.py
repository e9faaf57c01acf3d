"""What a run is computed from, as fingerprints, and what of it may change between a stop and a resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from thinwire import __version__
from thinwire.adapters import Adapters
from thinwire.config import Recipe
from thinwire.data.config import DataConfig
from thinwire.data.load import Dataset
from thinwire.data.templates import write
from thinwire.data.values import Record
from thinwire.methods import shipped
from thinwire.models.base import Base
from thinwire.own_methods import source_of
from thinwire.settings import ConfigError, listed

Identity = Mapping[str, Any]
"""Fingerprints by kind; JSON. A kind that is absent is not compared."""

FINGERPRINTS = {
    "data": "the same clients with other records, for training or testing",
    "clients": "clients that are new or gone",
    "tokenizer": "another tokenizer of the same base",
    "template": "another template, or another data.max_length",
    "recipe": "other settings",
    "thinwire": "another version of thinwire",
}
"""What may be accepted, in words. The base and the classes may not: the adapter fits no others."""

WORDS = {"base": "the base model's weights", "tokenizer": "the tokenizer", "template": "the template"}
NEVER = {
    "base": "an adapter is a change to the weights that it was trained on",
    "classes": "the classifier has one output for each",
    "fixed": "what is in the checkpoint depends on it",
}
FREE = ("model.", "data.source", "data.labels", "search.", "run.", "federation.rounds", "train.horizon")
"""Settings that other fingerprints cover, or that change nothing in what a round computes."""

FIXED = ("lora.", "method.name", "run.seed", "data.task", "privacy.")
"""Settings that a run keeps from its first round to its last."""

PROBE = ("Count: 1, 2, 10!", "Ünïcode\n\ttext", "Three.")
"""Instruction, context and response of a record that is written out and hashed."""

TALK = (("system", "Be brief."), ("user", "Three?"), ("assistant", "Yes."), ("user", "Four?"), ("assistant", "No."))
"""A conversation that is, too."""


def of_base(base: Base, data: DataConfig) -> dict[str, Any]:
    """The fingerprints of a base, its tokenizer and the template."""
    return {
        "base": base.fingerprint,
        "tokenizer": tokenizer_hash(base.tokenizer),
        "template": template_hash(data, base.tokenizer),
    }


def of_data(dataset: Dataset) -> dict[str, Any]:
    """The fingerprints of each client's training records and of each domain's test records, and the classes."""
    return {
        "clients": {name: records_hash(records) for name, records in dataset.clients.items()},
        "tests": {name: records_hash(records) for name, records in dataset.tests.items()},
        "classes": list(dataset.classes),
    }


def of_recipe(recipe: Recipe) -> dict[str, Any]:
    """The settings that decide what is computed, by their full name, and the version of thinwire."""
    found = of_settings(asdict(recipe))
    found["recipe"] |= {f"{kind}.code": value for kind, value in code_of(recipe.method["name"]).items()}
    if recipe.train.schedule != "constant":
        found["recipe"]["train.horizon"] = recipe.train.horizon or recipe.federation.rounds
    return found


def code_of(name: str) -> dict[str, str]:
    """The hash of the code of a method of one's own; nothing for those that thinwire has. Raises: ConfigError."""
    source = None if shipped(name) else source_of(name)
    return {"method": source.sha256} if source else {}


def of_settings(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of nested tables that decide what is computed, and the version of thinwire."""
    flat = {name: value for name, value in flattened(tables) if name == "run.seed" or not name.startswith(FREE)}
    return {"recipe": json.loads(json.dumps(flat)), "thinwire": __version__}


def flattened(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Every value of nested tables with its full name; an empty table is a value."""
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(before: Identity, now: Identity) -> dict[str, list[str]]:
    """What has changed, in words, by kind; only what both sides know is compared."""
    known = before.keys() & now.keys()
    found: dict[str, list[str]] = {}

    def put(kind: str, words: str) -> None:
        found.setdefault(kind, []).append(words)

    for kind, words in WORDS.items():
        if kind in known and before[kind] != now[kind]:
            put(kind, f"{words} ({before[kind][:12]} before, {now[kind][:12]} now)")
    if "classes" in known and list(before["classes"]) != list(now["classes"]):
        put("classes", f"the classes ({listed(before['classes'])} before, {listed(now['classes'])} now)")
    if "clients" in known:
        mine, theirs = now["clients"], before["clients"]
        for words, names in (("new", mine.keys() - theirs.keys()), ("gone", theirs.keys() - mine.keys())):
            if names:
                put("clients", f"the clients ({words}: {listed(sorted(names))})")
    for table, words in (("clients", "the training records of"), ("tests", "the test records of")):
        if table in known:
            both = before[table].keys() & now[table].keys()
            changed = sorted(name for name in both if before[table][name] != now[table][name])
            if table == "tests":
                changed = sorted({*changed, *(before[table].keys() ^ now[table].keys())})
            if changed:
                put("data", f"{words} {listed(changed)}")
    if "recipe" in known:
        unsaid = of_settings(asdict(Recipe()))["recipe"]  # a setting that the other version did not have
        unsaid |= {"federation.join": {}}  # and one that only an earlier version has
        for name in sorted(before["recipe"].keys() | now["recipe"].keys()):
            was, value = (side["recipe"].get(name, unsaid.get(name)) for side in (before, now))
            if was != value:
                put("fixed" if name.startswith(FIXED) else "recipe", f"{name} ({was!r} before, {value!r} now)")
    if "thinwire" in known and before["thinwire"] != now["thinwire"]:
        put("thinwire", f"thinwire's version ({before['thinwire']} before, {now['thinwire']} now)")
    return found


def check_same(
    before: Identity | None, now: Identity, accepted: Collection[str], where: str, how: str = "--accept-changes {}"
) -> list[str]:
    """What to warn of before a run goes on. where: of the run that is resumed; how: to accept kinds of changes.

    Raises: ConfigError for a difference that is not accepted, or cannot be.
    """
    if before is None:
        return [
            f"{where}: it was begun before fingerprints were kept: whether data, classes, clients, base, tokenizer, "
            "template and recipe are still the same cannot be checked"
        ]
    found = differences(before, now)
    for kind, reason in NEVER.items():
        if kind in found:
            raise ConfigError(f"{where}: {listed(found[kind])} changed since the checkpoint; not allowed: {reason}")
    private = now.get("recipe", {}).get("privacy.level") is not None
    if private and (lost := found.keys() - {"thinwire"}):
        words = listed(text for kind in sorted(lost) for text in found[kind])
        raise ConfigError(
            f"{where}: {words} changed since the checkpoint; not allowed with privacy: what the rounds so far have "
            "cost follows from them"
        )
    if refused := [kind for kind in found if kind not in accepted]:
        words = listed(text for kind in refused for text in found[kind])
        more = how.format(",".join(sorted({*refused, *accepted})))
        raise ConfigError(f"{where}: {words} changed since the checkpoint; allowed is what it was, or {more}")
    return [f"{where}: goes on though {text} changed" for several in found.values() for text in several]


def accepted_kinds(text: str | None) -> frozenset[str]:
    """The kinds of an `--accept-changes KIND,KIND`. Raises: ConfigError."""
    kinds = frozenset(part.strip() for part in (text or "").split(",") if part.strip())
    if wrong := sorted(kinds - FINGERPRINTS.keys()):
        raise ConfigError(f"--accept-changes {wrong[0]}: allowed are {', '.join(FINGERPRINTS)}, several with commas")
    return kinds


def records_hash(records: Iterable[Mapping[str, Any]]) -> str:
    """16 hex digits over the records in their order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(record, sort_keys=True, default=_plain).encode("utf-8", "surrogatepass"))
        digest.update(b"\n")
    return digest.hexdigest()[:16]


def _plain(value: Any) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 over the vocabulary, the special tokens and how a probe text is cut; empty where images are read."""
    if tokenizer is None:
        return ""
    vocabulary = sorted(tokenizer.get_vocab().items())
    probe = tokenizer("".join(PROBE), verbose=False)["input_ids"]
    return sha256(json.dumps([vocabulary, sorted(tokenizer.all_special_tokens), probe]))


def template_hash(config: DataConfig, tokenizer: Any) -> str:
    """SHA-256 over the template's name, the longest sequence, and what probe records become."""
    # not its columns: they are a site's own
    config = DataConfig(template=config.template, turns=config.turns, max_length=config.max_length)
    columns = dict(zip((config.instruction, config.context, config.response), PROBE, strict=True))
    talk = {"messages": [{"role": role, "content": text} for role, text in TALK]}
    written = [_written(Record(probe), tokenizer, config) for probe in (columns, talk)]
    return sha256(json.dumps([config.template, config.turns, config.max_length, *written]))


def _written(probe: Record, tokenizer: Any, config: DataConfig) -> list[Any]:
    """A probe's pieces; where a template refuses it, what it says tells templates apart, too."""
    try:
        return [(piece.text, piece.trained) for piece in write(probe, tokenizer, config).pieces]
    except ConfigError as error:
        return [str(error)]


def adapters_hash(adapters: Adapters) -> str:
    """SHA-256 over every tensor's key, shape and bytes, and every module's scale."""
    digest = hashlib.sha256()
    for key, tensor in adapters.items():
        digest.update(f"{key} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    digest.update(json.dumps({name: module.scale for name, module in sorted(adapters.modules.items())}).encode())
    return digest.hexdigest()


def run_id(text: str) -> int:
    """64 bits of a SHA-256: a run by its name, or by the fingerprints of all that it is computed from."""
    return int(sha256(text)[:16], 16)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
