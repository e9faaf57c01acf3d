"""From `[data]` settings to a federation: who trains on which records, and on which all are tested."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from thinwire.config import DataConfig
from thinwire.data import Example, partition
from thinwire.data.readers import Record
from thinwire.data.sources import Catalogue, Splits, open_source
from thinwire.data.templates import Tokenizer, encode_many, prompt_tokens
from thinwire.randomness import derive, permutation
from thinwire.settings import ConfigError, unknown

HELD_OUT = 0.1  # share of a domain's records that stands in for a test or validation split that the source lacks


@dataclass(frozen=True)
class Dataset:
    """Training records of each client with their labels, and the records of each domain that all are evaluated on."""

    clients: dict[str, list[Record]]
    labels: dict[str, list[str]]  # the data.column of each training record where that is a label, else its domain
    tests: dict[str, list[Record]]  # the clients' domains first, then those that are only evaluated


def load(config: DataConfig, seed: int) -> Dataset:
    """The records of a recipe; `seed` draws training samples and partitions, never what is held out.

    Clients: the training records of `data.clients` (empty: of every domain that has any and is not in
    `data.evaluate`), at most `data.train_limit` of each, a client a domain or divided by `data.partition`.
    Tests: at most `data.test_limit` records of the test split of those domains, then of `data.evaluate`.
    A source without a test split holds out 10 % of a domain's records, at least one, chosen by their content, so the
    same for every seed and never also trained on as a duplicate. On `data.split = "validation"` the tests are the
    validation split, or without one a share `data.validation` of the training records (0: 10 %) chosen in the same
    way, and no test file is opened; such a share is also kept out of training whenever `data.validation` is not 0.
    Raises: ConfigError for whatever the source does not have.
    """
    catalogue = open_source(config, seed)
    trained = config.clients or _trainable(catalogue, config)
    _known(catalogue, trained, "data.clients")
    _known(catalogue, config.evaluate, "data.evaluate")
    pool: list[tuple[str, Record]] = []
    tests: dict[str, list[Record]] = {}
    for domain in trained:
        if "train" not in catalogue[domain]:
            raise ConfigError(f"data.clients: {domain} has no training records, only {', '.join(catalogue[domain])}")
        training, tests[domain] = _divide(domain, catalogue[domain], config)
        chosen = _sample(training, config.train_limit, derive(seed, "data.train", domain))
        pool += [(domain, record) for record in chosen]
    for domain in config.evaluate:
        if domain not in tests:
            tests[domain] = _divide(domain, catalogue[domain], config)[1]
    tests = {name: _sample(rows, config.test_limit, derive(0, "data.test", name)) for name, rows in tests.items()}
    parts = _partition(pool, config, seed)
    labels = _labels(pool, config)
    return Dataset(
        clients={name: [pool[index][1] for index in part] for name, part in parts.items()},
        labels={name: [labels[index] for index in part] for name, part in parts.items()},
        tests=tests,
    )


def encode_all(
    dataset: Dataset, tokenizer: Tokenizer, config: DataConfig
) -> tuple[dict[str, list[Example]], dict[str, list[Example]], dict[str, int]]:
    """Examples by client, examples by test domain, and how many records had no room or no response.

    The last is by client name, and by `test/<domain>`; only what is not 0 is in it.
    Raises: ConfigError naming a client or domain that has no usable example, and why.
    """
    skipped: dict[str, int] = {}

    def encoded(name: str, what: str, records: Sequence[Record]) -> list[Example]:
        try:
            rows = encode_many(records, tokenizer, config)
        except ConfigError as error:
            raise ConfigError(f"{what}: {error}") from error
        usable = [row for row in rows if row is not None]
        if not usable:
            raise ConfigError(f"{what}: {_why_none(records, tokenizer, config)}")
        if len(usable) < len(rows):
            skipped[name] = len(rows) - len(usable)
        return usable

    clients = {name: encoded(name, f"client {name}", records) for name, records in dataset.clients.items()}
    tests = {name: encoded(f"test/{name}", f"tests of {name}", records) for name, records in dataset.tests.items()}
    return clients, tests, skipped


def set_aside(records: Sequence[Record], share: float, purpose: str) -> tuple[list[Record], list[Record]]:
    """(rest, aside): the `share` of the records, at least one, that comes first by a hash of purpose and content.

    Equal records stay together, on whichever side that is. Both keep their order; the rest may be empty.
    """
    marks = [derive(0, purpose, json.dumps(record, sort_keys=True, default=str)) for record in records]
    chosen = set(sorted(marks)[: max(1, round(share * len(records)))])
    rest = [record for record, mark in zip(records, marks, strict=True) if mark not in chosen]
    return rest, [record for record, mark in zip(records, marks, strict=True) if mark in chosen]


def _divide(domain: str, splits: Splits, config: DataConfig) -> tuple[list[Record], list[Record]]:
    """(training, evaluation) records of a domain."""
    rest = splits["train"]() if "train" in splits else []
    have: dict[str, Callable[[], list[Record]]] = dict(splits)
    shares = {"test": HELD_OUT, "validation": config.validation or (HELD_OUT if config.split == "validation" else 0)}
    for split, share in shares.items():
        if split in splits or not share or not rest:
            continue
        total = len(rest)
        rest, aside = set_aside(rest, share, f"data.{split}")
        have[split] = aside.copy
        if not rest:
            raise ConfigError(f"{domain}: of {total} records, equal ones as one, none is left beside the {split} split")
    if config.split not in have:
        raise ConfigError(f"{domain}: there are no {config.split} or train records to evaluate it on (data.split)")
    return rest, have[config.split]()


def _trainable(catalogue: Catalogue, config: DataConfig) -> tuple[str, ...]:
    names = tuple(name for name, splits in catalogue.items() if "train" in splits and name not in config.evaluate)
    if not names:
        raise ConfigError(
            f"data.source = {config.source!r}: no domain is left to train on; it has {', '.join(catalogue)}"
        )
    return names


def _known(catalogue: Catalogue, names: Sequence[str], field: str) -> None:
    for name in names:
        if name not in catalogue:
            raise unknown(f"{field}: {name}", name, catalogue)


def _sample(records: list[Record], limit: int | None, seed: int) -> list[Record]:
    if limit is None or limit >= len(records):
        return records
    return [records[index] for index in sorted(permutation(seed, len(records))[:limit])]


def _partition(pool: list[tuple[str, Record]], config: DataConfig, seed: int) -> dict[str, list[int]]:
    if config.partition == "file":
        groups = partition.by_value([domain for domain, _ in pool])
        return {domain: groups[domain] for domain in dict.fromkeys(domain for domain, _ in pool)}
    if config.partition == "column":
        return partition.by_value(_values(pool, config))
    if config.partition == "iid":
        parts = partition.iid(len(pool), config.count, seed)
    else:
        parts = partition.dirichlet(_labels(pool, config), config.count, config.alpha, seed)
    width = len(str(len(parts) - 1))
    return {f"client-{number:0{width}}": part for number, part in enumerate(parts)}


def _labels(pool: list[tuple[str, Record]], config: DataConfig) -> list[str]:
    domains = [domain for domain, _ in pool]
    if config.column is not None and config.partition != "column":
        return _values(pool, config)
    if config.partition == "dirichlet" and len(set(domains)) == 1:
        raise ConfigError(f"data.column is missing: dirichlet divides by a label, and all records are of {domains[0]}")
    return domains


def _values(pool: list[tuple[str, Record]], config: DataConfig) -> list[str]:
    if config.column is None:
        raise ConfigError("data.column is missing: partition by column needs the column that names the client")
    for domain, record in pool:
        if record.get(config.column) is None:
            raise ConfigError(
                f"data.column = {config.column!r}: none in a record of {domain}, which has {', '.join(record)}"
            )
    return [str(record[config.column]) for _, record in pool]


def _why_none(records: Sequence[Record], tokenizer: Tokenizer, config: DataConfig) -> str:
    shortest = min(len(prompt_tokens(record, tokenizer, config)) for record in records)
    if config.template == "plain" or shortest < config.max_length:
        return f"none of its {len(records)} records has a response (column {config.response!r}) that leaves a token"
    return (
        f"none of its {len(records)} records fits data.max_length = {config.max_length}: "
        f"the shortest prompt has {shortest} tokens, and at least one more is needed for the response"
    )
