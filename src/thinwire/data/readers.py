"""Records of one file: JSONL, CSV (both also gzipped) or Parquet; whatever is wrong is named with its file and line."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from thinwire.data.values import Record
from thinwire.settings import ConfigError

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")


def read(path: Path) -> list[Record]:
    """All records of a file, by its suffix. Raises: ConfigError naming the file, and the line where there is one."""
    records = _parquet(path) if path.name.endswith(".parquet") else _text(path)
    if not records:
        raise ConfigError(f"{path} is empty: it has no record")
    return records


def suffix(name: str) -> str | None:
    """The one of SUFFIXES that a file name ends with."""
    return next((end for end in SUFFIXES if name.endswith(end) and name != end), None)


def extra_missing(what: str, library: str) -> ConfigError:
    """The error for an absent optional library."""
    return ConfigError(f"{what} needs the library {library}: pip install thinwire[data]")


def _text(path: Path) -> list[Record]:
    rows = _csv if path.name.endswith((".csv", ".csv.gz")) else _jsonl
    try:
        with _open(path) as file:
            return list(rows(path, file))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ConfigError(f"{path} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error


def _open(path: Path) -> TextIO:
    opener = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def _jsonl(path: Path, file: TextIO) -> Iterator[Record]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}, line {number}: not JSON ({error}): {_shorten(line)}") from error
        if not isinstance(record, dict):
            raise ConfigError(f"{path}, line {number}: not a JSON object: {_shorten(line)}")
        yield Record(record, f"{path}, line", number)


def _csv(path: Path, file: TextIO) -> Iterator[Record]:
    reader = csv.DictReader(file, strict=True)
    try:
        names = reader.fieldnames or []
        if len(set(names)) < len(names):
            raise ConfigError(f"{path}, line 1: a column name occurs twice: {', '.join(names)}")
        for row in reader:
            if None in row or None in row.values():
                found = f"{_fields(row)} fields, but the header has {len(names)}"
                raise ConfigError(f"{path}, line {reader.line_num}: {found}")
            yield Record(row, f"{path}, line", reader.line_num)
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.reader.line_num}: not CSV ({error})") from error


def _fields(row: dict[Any, Any]) -> int:
    return sum(value is not None for key, value in row.items() if key is not None) + len(row.get(None, ()))


def _parquet(path: Path) -> list[Record]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise extra_missing(f"{path}: Parquet", "pyarrow") from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{path} is not readable Parquet: {error}") from error
    return [Record(row, f"{path}, record", number) for number, row in enumerate(rows, start=1)]


def _shorten(line: str) -> str:
    line = line.strip()
    return line if len(line) <= 80 else line[:77] + "..."
