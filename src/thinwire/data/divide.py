"""What is set aside from training: whole records chosen by their content, or the tail of every text."""

from __future__ import annotations

import json
from collections.abc import Sequence

from thinwire.data.config import DataConfig
from thinwire.data.sources import Splits
from thinwire.data.values import Record, at, columns, place_of, text_in
from thinwire.randomness import derive
from thinwire.settings import ConfigError

HELD_OUT = 0.1  # share of a domain's records that stands in for a test or validation split that the source lacks


def divide(domain: str, whole: list[Record], splits: Splits, config: DataConfig) -> tuple[list[Record], Splits]:
    """A domain's training records, and its splits with what was set aside of `whole`, which its training file holds.

    Raises: ConfigError where nothing is left to train on, or there is no `data.split` to evaluate on.
    """
    rest = whole
    have = dict(splits)
    shares = {"test": HELD_OUT, "validation": config.validation or (HELD_OUT if config.split == "validation" else 0)}
    for split, share in shares.items():
        if split in splits or not share or not rest:
            continue
        total = len(rest)
        if config.held_out == "tail":
            rest, aside = tails(rest, share, config.text)
        else:
            rest, aside = set_aside(rest, share, f"data.{split}")
        have[split] = aside.copy
        if not rest:
            raise ConfigError(f"{domain}: of {total} records, equal ones as one, none is left beside the {split} split")
    if config.split not in have:
        raise ConfigError(f"{domain}: there are no {config.split} or train records to evaluate it on (data.split)")
    return rest, have


def set_aside(records: Sequence[Record], share: float, purpose: str) -> tuple[list[Record], list[Record]]:
    """(rest, aside): the `share` of the records, at least one, that comes first by a hash of purpose and content.

    Equal records stay together, on whichever side that is. Both keep their order; the rest may be empty.
    """
    marks = [derive(0, purpose, _content(record)) for record in records]
    chosen = set(sorted(marks)[: max(1, round(share * len(records)))])
    rest = [record for record, mark in zip(records, marks, strict=True) if mark not in chosen]
    return rest, [record for record, mark in zip(records, marks, strict=True) if mark in chosen]


def _content(record: Record) -> str:
    try:
        return json.dumps(record, sort_keys=True, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{place_of(record)}: its values cannot be compared with others: {error}") from None


def tails(records: Sequence[Record], share: float, column: str) -> tuple[list[Record], list[Record]]:
    """(rest, aside): every text but its last `share`, and that share, cut at white space; a text without any stays.

    Raises: ConfigError for a record without the column.
    """
    rest, aside = [], []
    for record in records:
        if column not in record:
            raise ConfigError(f"{at(record, column, 'text')} is missing; the columns are {columns(record)}")
        text = text_in(record, column, "text")
        end = len(text[: round((1 - share) * len(text))].rpartition(" ")[0])
        rest.append(record.changed(column, text[:end] if end else text))
        if end:
            aside.append(record.changed(column, text[end + 1 :]))
    return rest, aside
