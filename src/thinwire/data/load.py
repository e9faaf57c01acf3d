"""From `[data]` settings to a federation: who trains on which records, and on which all are tested."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from thinwire.data import partition
from thinwire.data.classify import check_labels, label_set, labels_of
from thinwire.data.config import DataConfig
from thinwire.data.divide import divide
from thinwire.data.sources import Catalogue, Splits, open_source
from thinwire.data.values import Record, as_label, as_name, at, columns
from thinwire.randomness import derive, permutation
from thinwire.settings import ConfigError, listed, unknown

ONE_CLASS = ("sequence", "image")
"""The tasks with one class a record."""


@dataclass(frozen=True)
class Dataset:
    """Training records of each client with their labels, and the records of each domain that all are evaluated on."""

    clients: dict[str, list[Record]]
    labels: dict[str, list[str]]  # of each training record: data.column where that is a label, its class, or its domain
    tests: dict[str, list[Record]]  # the clients' domains first, then those that are only evaluated
    owners: dict[str, list[str | None]] = field(default_factory=dict)  # of each test record: whose share it is
    classes: tuple[str, ...] = ()  # all classes, in order; empty where text is written
    left_out: tuple[str, ...] = ()  # files of the source that are not read, with the reasons
    validation: dict[str, list[Record]] = field(default_factory=dict)  # as tests, where that split was asked for, too
    validation_owners: dict[str, list[str | None]] = field(default_factory=dict)


def load(config: DataConfig, seed: int, validation: bool = False) -> Dataset:
    """The records of a recipe; `seed` draws training samples and partitions, never what is held out.

    Clients: the training records of `data.clients` (empty: of every domain that has any and is not in
    `data.evaluate`), at most `data.train_limit` of each, a client a domain or divided by `data.partition`.
    Tests: at most `data.test_limit` records of the test split of those domains, then of `data.evaluate`.
    A source without a test split holds out 10 % of a domain's records, at least one, chosen by their content, so the
    same for every seed and never also trained on as a duplicate; or the last 10 % of every text (`data.held_out`). On
    `data.split = "validation"` the tests are the validation split, or without one a share `data.validation` of the
    training records (0: 10 %) chosen in the same way, and no test file is opened; such a share is also kept out of
    training whenever `data.validation` is not 0.
    Owners: a test record of a client's domain belongs to that client (`file`), to the client its column names
    (`column`), or is dealt out as the training records are: evenly (`iid`), or in the same proportions of its label
    (`dirichlet`). Those of `data.evaluate` belong to nobody.
    validation: also the validation split, as tests are.
    Raises: ConfigError for whatever the source does not have.
    """
    source = open_source(config, seed)
    catalogue = source.domains
    evaluated = _known(catalogue, config.evaluate, "data.evaluate")
    trained = _known(catalogue, config.clients, "data.clients") or _trainable(catalogue, config, evaluated)
    wholes = {domain: _training(catalogue, domain) for domain in trained}
    classes = _classes(wholes, config)
    pool: list[tuple[str, Record]] = []
    splits: dict[str, Splits] = {}
    for domain, whole in wholes.items():
        training, splits[domain] = divide(domain, whole, catalogue[domain], config)
        chosen = _sample(training, config.train_limit, derive(seed, "data.train", domain))
        pool += [(domain, record) for record in chosen]
    for domain in evaluated:
        if domain not in splits:
            whole = _training(catalogue, domain) if "train" in catalogue[domain] else []
            splits[domain] = divide(domain, whole, catalogue[domain], config)[1]
    if classes:
        check_labels((record for _, record in pool), classes, config, "in the training records")
    parts = _partition(pool, config, seed)
    labels = _labels(pool, config)

    def held(split: str) -> tuple[dict[str, list[Record]], dict[str, list[str | None]]]:
        """A split's records by domain, and their owners."""
        found = {}
        for domain, have in splits.items():
            if split not in have:
                raise ConfigError(f"{domain}: there are no {split} or train records to evaluate it on")
            found[domain] = _sample(have[split](), config.test_limit, derive(0, "data.test", domain))
            if classes:
                check_labels(found[domain], classes, config, f"in the {split} records of {domain}")
        return found, {
            domain: _owners(domain, rows, parts, config, seed) if domain in wholes else [None] * len(rows)
            for domain, rows in found.items()
        }

    tests, owners = held(config.split)
    more = held("validation") if validation and config.split != "validation" else ({}, {})
    return Dataset(
        clients={name: [pool[index][1] for index in part] for name, part in parts.items()},
        labels={name: [labels[index] for index in part] for name, part in parts.items()},
        tests=tests,
        owners=owners,
        classes=classes,
        left_out=source.left_out,
        validation=more[0],
        validation_owners=more[1],
    )


def _training(catalogue: Catalogue, domain: str) -> list[Record]:
    if "train" not in catalogue[domain]:
        raise ConfigError(f"data.clients: {domain} has no training records, only {', '.join(catalogue[domain])}")
    return catalogue[domain]["train"]()


def _classes(wholes: dict[str, list[Record]], config: DataConfig) -> tuple[str, ...]:
    if config.task == "text":
        return ()
    classes = label_set((record for whole in wholes.values() for record in whole), config)
    if not config.labels and {"0", "1"} & set(classes) and {"true", "false"} & set(classes):
        raise ConfigError(
            f"data.label = {config.label!r}: numbers beside true and false ({listed(classes, 8)}); allowed is one "
            "of the two everywhere, or all classes in data.labels"
        )
    if len(classes) < 2:
        raise ConfigError(f"data.label = {config.label!r}: all training records are {classes[0]!r}; two are needed")
    return classes


def _trainable(catalogue: Catalogue, config: DataConfig, evaluated: Sequence[str]) -> tuple[str, ...]:
    names = tuple(name for name, splits in catalogue.items() if "train" in splits and name not in evaluated)
    if not names:
        raise ConfigError(
            f"data.source = {config.source!r}: no domain is left to train on; it has {', '.join(catalogue)}"
        )
    return names


def _known(catalogue: Catalogue, given: Sequence[str], field: str) -> tuple[str, ...]:
    """The domains that a recipe names."""
    names = tuple(as_name(name, field) for name in given)
    for name in names:
        if name not in catalogue:
            raise unknown(f"{field}: {name}", name, catalogue)
    return names


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
        parts = partition.dirichlet(_dirichlet_labels(pool, config), config.count, config.alpha, seed)
    return dict(zip(_names(config.count), parts, strict=True))


def _names(count: int) -> list[str]:
    width = len(str(count - 1))
    return [f"client-{number:0{width}}" for number in range(count)]


def _owners(
    domain: str, tests: list[Record], clients: Collection[str], config: DataConfig, seed: int
) -> list[str | None]:
    """The client that each test record of a domain is given to; None: nobody."""
    if config.partition == "file":
        return [domain if domain in clients else None] * len(tests)
    if config.partition == "column":
        values = [_name(record, config.column or "") for record in tests]
        return [value if value in clients else None for value in values]
    if config.partition == "iid":
        order = permutation(derive(seed, "data.iid.test", domain), len(tests))
        parts = [order[part :: config.count] for part in range(config.count)]
    else:
        labelled = [index for index, record in enumerate(tests) if config.column is None or config.column in record]
        labels = _labels([(domain, tests[index]) for index in labelled], config)
        shares = partition.shares(labels, config.count, config.alpha, seed)
        parts = [[labelled[place] for place in part] for part in shares]
    owner = {place: name for name, part in zip(_names(config.count), parts, strict=True) for place in part}
    return [owner.get(index) for index in range(len(tests))]


def _labels(pool: list[tuple[str, Record]], config: DataConfig) -> list[str]:
    """What dirichlet divides by and the table shows: a column, the class, or the domain."""
    if config.column is not None and config.partition != "column":
        return _values(pool, config)
    if config.task in ONE_CLASS:
        return [labels_of(record, config)[0] for _, record in pool]
    return [domain for domain, _ in pool]


def _dirichlet_labels(pool: list[tuple[str, Record]], config: DataConfig) -> list[str]:
    domains = {domain for domain, _ in pool}
    if config.column is None and config.task not in ONE_CLASS and len(domains) == 1:
        only = domains.pop()
        raise ConfigError(f"data.column is missing: dirichlet divides by a label, and all records are of {only}")
    return _labels(pool, config)


def _values(pool: list[tuple[str, Record]], config: DataConfig) -> list[str]:
    if config.column is None:
        raise ConfigError("data.column is missing: partition by column needs the column that names the client")
    names = [_name(record, config.column) for _, record in pool]
    if "" in names:
        record = pool[names.index("")][1]
        raise ConfigError(
            f"{at(record, config.column, 'column')}: nothing is there; the columns are {columns(record)}"
        )
    return names


def _name(record: Record, column: str) -> str:
    return as_label(record.get(column), at(record, column, "column"))
