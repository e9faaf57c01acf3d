"""Raw values to texts, classes, words and names: the only place where that is decided, and every error names its place.

One spelling each: whole numbers without a fraction (`1`, `1.0`: 1), truth as true and false, dates as in ISO 8601,
bytes as UTF-8. null and NaN are missing. A list or a table is never written out as a text.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any
from uuid import UUID

from thinwire.settings import ConfigError


class Record(dict[str, Any]):
    """A row of data by column, that knows where it was read: its place is `north.jsonl, line 3`."""

    __slots__ = ("number", "origin")

    def __init__(self, values: Mapping[str, Any], origin: str = "a record", number: int = 0) -> None:
        super().__init__(values)
        self.origin, self.number = origin, number

    @property
    def place(self) -> str:
        """File and line or record."""
        return f"{self.origin} {self.number}" if self.number else self.origin

    def changed(self, column: str, value: Any) -> Record:
        """The record with another value in a column."""
        return Record({**self, column: value}, self.origin, self.number)


def at(record: Mapping[str, Any], column: str, field: str) -> str:
    """Where a value stands, for an error: `data.response: north.jsonl, line 3, column 'answer'`."""
    return f"data.{field}: {place_of(record)}, column {column!r}"


def place_of(record: Mapping[str, Any]) -> str:
    """File and line of a record that has them."""
    return record.place if isinstance(record, Record) else "a record"


def columns(record: Mapping[str, Any]) -> str:
    """The names of a record's columns, for an error."""
    return ", ".join(shown(name) for name in islice(record, 30)) + (", ..." if len(record) > 30 else "")


def text_in(record: Mapping[str, Any], column: str, field: str) -> str:
    """The text in the column that `data.<field>` names, "" where it is missing. Raises: ConfigError."""
    return as_text(record.get(column), at(record, column, field))


def missing(value: Any) -> bool:
    """Whether it is null or NaN (also pandas' NaT and a decimal's NaN)."""
    return value is None or (isinstance(value, float | Decimal | date) and bool(value != value))


def as_text(value: Any, place: str) -> str:
    """A value as a text, "" where it is missing. Raises: ConfigError for what is not text, number, truth or date."""
    if isinstance(value, str):
        return _whole(value, place)
    if missing(value):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return _number(value, place)
    if isinstance(value, bytes | bytearray | memoryview):
        return _decoded(bytes(value), place)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta | UUID):
        return str(value)
    raise ConfigError(
        f"{place}: {_kind(value)} where a text is expected ({shown(value)}); allowed is a text, a number, true, false "
        "or a date: write it as one text in a column of its own, and name that column"
    )


def as_name(text: str, place: str) -> str:
    """A name: white space is one space, letters with accents are composed (NFC). Raises: ConfigError."""
    name = unicodedata.normalize("NFC", " ".join(_whole(text, place).split()))
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        raise ConfigError(f"{place}: a control character in {shown(name)}; allowed in a name are letters and signs")
    return name


def as_label(value: Any, place: str) -> str:
    """A value as a class or a client's name, "" where it is missing or empty; `1.0` as text is 1, and `True` is true.

    Raises: ConfigError.
    """
    label = as_name(as_text(value, place), place)
    if re.fullmatch(r"-?[0-9]+\.0+", label):
        label = label.partition(".")[0]
    return label.lower() if label.lower() in ("true", "false") else label


def as_labels(value: Any, place: str) -> list[str]:
    """The classes in a list, or in a text, split at white space; a text that begins with [ must be such a list.

    Raises: ConfigError for a missing one, or what is not a list.
    """
    found = _items(value, place, opening=("[",))
    labels = [as_label(item, f"{place}, item {number}") for number, item in enumerate(found, start=1)]
    if "" in labels:
        raise ConfigError(f"{place}, item {labels.index('') + 1}: a class is missing ({shown(value)})")
    return labels


def as_words(value: Any, place: str) -> list[str]:
    """The words in a list, or in a text, split at white space; a text that begins with [" or [' must be such a list.

    Raises: ConfigError for what is not a list.
    """
    found = _items(value, place, opening=('["', "['"))
    return [as_text(item, f"{place}, item {number}") for number, item in enumerate(found, start=1)]


def by_value(label: str) -> tuple[int, int, str]:
    """A key to sort labels by: whole numbers by value, then the others by code point; `1` comes before `01`."""
    if re.fullmatch(r"-?[0-9]{1,1000}", label):
        return (0, int(label), f"{len(label):04}")
    return (1, 0, label)


def shown(value: Any, most: int = 60) -> str:
    """A value in few characters, for an error."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= most else text[: most - 3] + "..."


def _whole(value: str, place: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = f"half of a surrogate pair (\\u{ord(value[error.start]):04x})"
        raise ConfigError(f"{place}: character {error.start + 1} is {half}; allowed is whole Unicode text") from None
    return value


def _number(value: int | float | Decimal, place: str) -> str:
    if isinstance(value, int):
        return str(value)
    if value in (float("inf"), float("-inf")):
        raise ConfigError(f"{place}: {value}; allowed is a finite number")
    if value == int(value):
        return str(int(value))
    return format(value.normalize(), "f") if isinstance(value, Decimal) else repr(value)


def _decoded(value: bytes, place: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{place}: bytes that are not UTF-8 ({error.reason} at byte {error.start})") from None


def _items(value: Any, place: str, opening: tuple[str, ...]) -> Sequence[Any]:
    if isinstance(value, list | tuple):
        return value
    text = as_text(value, place).strip()
    return _listed(text, place) if text.startswith(opening) else text.split()


def _listed(text: str, place: str) -> list[Any]:
    """A list that was kept as a text, as in a CSV file: in JSON, or as Python writes it, to the letter."""
    for parse, faithful in ((json.loads, lambda found: True), (ast.literal_eval, lambda found: repr(found) == text)):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and faithful(found):
            return found
    raise ConfigError(
        f"{place}: {shown(text)} begins like a list, but is none; allowed is a list as JSON or Python writes it, "
        "or words with spaces between them"
    )


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
