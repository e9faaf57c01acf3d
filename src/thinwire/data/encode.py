"""From records to examples, for every client and every test domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thinwire.config import DataConfig
from thinwire.data import Example
from thinwire.data.classify import encode_texts, encode_words
from thinwire.data.images import encode_images
from thinwire.data.load import Dataset
from thinwire.data.templates import Tokenizer, encode_many, prompt_tokens
from thinwire.data.values import Record
from thinwire.settings import ConfigError


@dataclass(frozen=True)
class Encoded:
    """A data set as examples."""

    clients: dict[str, list[Example]]
    tests: dict[str, list[Example]]
    owners: dict[str, list[str | None]]  # of each test example: the client whose share it is, None for nobody's
    skipped: dict[str, int]  # client or test/DOMAIN -> records that gave no example; only what is not 0


def encode_all(dataset: Dataset, tokenizer: Tokenizer, config: DataConfig, image_size: int | None = None) -> Encoded:
    """Every record as its examples; `image_size`: the side in pixels that the model takes, if it takes one only.

    Raises: ConfigError naming a client or domain without a usable example, and why.
    """
    if image_size is not None and config.image_size not in (None, image_size):
        raise ConfigError(f"data.image_size = {config.image_size}: the model takes images of {image_size} only")
    size = image_size or config.image_size
    skipped: dict[str, int] = {}

    def encoded(name: str, what: str, records: Sequence[Record]) -> Sequence[Sequence[Example]]:
        try:
            rows = encode_records(records, tokenizer, config, dataset.classes, size)
        except ConfigError as error:
            raise ConfigError(f"{what}: {error}") from error
        none = sum(not row for row in rows)
        if none == len(rows):
            raise ConfigError(f"{what}: {_why_none(records, tokenizer, config)}")
        if none:
            skipped[name] = none
        return rows

    clients = {name: _joined(encoded(name, f"client {name}", own)) for name, own in dataset.clients.items()}
    tests, owners = {}, {}
    for domain, records in dataset.tests.items():
        rows = encoded(f"test/{domain}", f"tests of {domain}", records)
        whose = dataset.owners.get(domain, [None] * len(records))
        tests[domain] = _joined(rows)
        owners[domain] = [owner for owner, row in zip(whose, rows, strict=True) for _ in row]
    return Encoded(clients, tests, owners, skipped)


def encode_records(
    records: Sequence[Record], tokenizer: Tokenizer, config: DataConfig, classes: Sequence[str], size: int | None
) -> Sequence[Sequence[Example]]:
    """The examples of each record, for the recipe's task."""
    if config.task == "text":
        return encode_many(records, tokenizer, config)
    if config.task == "image":
        return encode_images(records, config, classes, size)
    return (encode_texts if config.task == "sequence" else encode_words)(records, tokenizer, config, classes)


def _joined(rows: Sequence[Sequence[Example]]) -> list[Example]:
    return [example for row in rows for example in row]


def _why_none(records: Sequence[Record], tokenizer: Tokenizer, config: DataConfig) -> str:
    if config.task != "text":
        return f"none of its {len(records)} records has a text (column {config.text!r}) with a token"
    shortest = min(len(prompt_tokens(record, tokenizer, config)) for record in records)
    if config.template == "plain" or shortest < config.max_length:
        return f"none of its {len(records)} records has a response (column {config.response!r}) that leaves a token"
    return (
        f"none of its {len(records)} records fits data.max_length = {config.max_length}: "
        f"the shortest prompt has {shortest} tokens, and at least one more is needed for the response"
    )
