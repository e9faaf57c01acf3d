"""From records to examples, for every client and every test domain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from thinwire.data import Example
from thinwire.data.classify import encode_texts, encode_words
from thinwire.data.config import DataConfig
from thinwire.data.images import encode_images
from thinwire.data.load import Dataset
from thinwire.data.templates import Tokenizer, encode_many, read_from, rows_of
from thinwire.data.values import Record
from thinwire.settings import ConfigError, listed


@dataclass(frozen=True)
class EncodedData:
    """A data set as examples."""

    clients: dict[str, list[Example]]
    tests: dict[str, list[Example]]
    owners: dict[str, list[str | None]]  # of each test example: the client whose share it is, None for nobody's
    validation: dict[str, list[Example]]  # as tests, of the validation split where the data set has it
    validation_owners: dict[str, list[str | None]]
    skipped: dict[str, dict[str, int]]  # reason -> client or test/DOMAIN -> records that gave no example


def encode_all(
    dataset: Dataset, tokenizer: Tokenizer, config: DataConfig, image_size: int | None = None
) -> EncodedData:
    """Every record as its examples; `image_size`: the side in pixels that the model takes, if it takes one only.

    Clients train on the turns of a conversation that `data.turns` says; tests are evaluated on the last one.
    Raises: ConfigError naming a client or domain without a usable example, and why.
    """
    if image_size is not None and config.image_size not in (None, image_size):
        raise ConfigError(f"data.image_size = {config.image_size}: the model takes images of {image_size} only")
    size = image_size or config.image_size
    skipped: dict[str, dict[str, int]] = {}

    def encoded(name: str, what: str, records: Sequence[Record], own: DataConfig) -> Sequence[Sequence[Example]]:
        try:
            rows = encode_records(records, tokenizer, own, dataset.classes, size)
        except ConfigError as error:
            raise ConfigError(f"{what}: {error}") from error
        none = sum(not row for row in rows)
        if none == len(rows):
            raise ConfigError(f"{what}: {_why_none(records, tokenizer, own)}")
        if none:
            left = [record for record, row in zip(records, rows, strict=True) if not row]
            for reason, count in _reasons(left, tokenizer, own).items():
                skipped.setdefault(reason, {})[name] = count
        return rows

    clients = {name: _joined(encoded(name, f"client {name}", own, config)) for name, own in dataset.clients.items()}

    def held(
        word: str, split: Mapping[str, list[Record]], owners: Mapping[str, list[str | None]]
    ) -> tuple[dict[str, list[Example]], dict[str, list[str | None]]]:
        """A split's examples by domain, and their owners."""
        found: dict[str, list[Example]] = {}
        whose: dict[str, list[str | None]] = {}
        for domain, records in split.items():
            rows = encoded(f"{word}/{domain}", f"{word}s of {domain}", records, replace(config, turns="last"))
            mine = owners.get(domain, [None] * len(records))
            found[domain] = _joined(rows)
            whose[domain] = [owner for owner, row in zip(mine, rows, strict=True) for _ in row]
        return found, whose

    tests = held("test", dataset.tests, dataset.owners)
    validation = held("validation", dataset.validation, dataset.validation_owners)
    return EncodedData(clients, tests[0], tests[1], validation[0], validation[1], skipped)


def encode_records(
    records: Sequence[Record], tokenizer: Tokenizer, config: DataConfig, classes: Sequence[str], size: int | None
) -> Sequence[Sequence[Example]]:
    """The examples of each record, for the recipe's task."""
    if config.task == "text":
        return encode_many(records, tokenizer, config)
    if config.task == "image":
        return encode_images(records, config, classes, size)
    return (encode_texts if config.task == "sequence" else encode_words)(records, tokenizer, config, classes)


def skipped_words(skipped: Mapping[str, Mapping[str, int]]) -> str:
    """How many records gave no example, whose they are, and why."""
    return "; ".join(
        f"{reason}: {listed(f'{name} {count}' for name, count in counts.items())}"
        for reason, counts in skipped.items()
    )


def _joined(rows: Sequence[Sequence[Example]]) -> list[Example]:
    return [example for row in rows for example in row]


def _reasons(records: Sequence[Record], tokenizer: Tokenizer, config: DataConfig) -> Counter[str]:
    """Why records give no example."""
    if config.task != "text":
        return Counter({f"records whose text (column {config.text!r}) has no token": len(records)})
    long = f"records longer than data.max_length = {config.max_length} before the first token of a response"
    none = "records without a response"
    return Counter(long if any(row.trained) else none for row in rows_of(records, tokenizer, config))


def _why_none(records: Sequence[Record], tokenizer: Tokenizer, config: DataConfig) -> str:
    if config.task != "text":
        return f"none of its {len(records)} records has a text (column {config.text!r}) with a token"
    answered = [row for row in rows_of(records, tokenizer, config) if any(row.trained)]
    if not answered:
        return f"none of its {len(records)} records has a response ({read_from(records, config)}) with a token"
    shortest = min(row.prompt for row in answered)
    return (
        f"none of its {len(records)} records fits data.max_length = {config.max_length}: "
        f"the shortest prompt has {shortest} tokens, and at least one more is needed for the response"
    )
