"""Records of one file: JSON (lines or an array), CSV and TSV (also packed), or Parquet; errors name file and line."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import zstandard

from thinwire.data.values import Record, shown
from thinwire.settings import ConfigError

TEXT = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
PACKED = (".gz", ".zst")
SUFFIXES = (*(kind + packed for kind in TEXT for packed in ("", *PACKED)), ".parquet")
ENDINGS = f"{', '.join(TEXT)} (also with {' or '.join(PACKED)} after it) or .parquet"
"""SUFFIXES in words."""
INDEX = re.compile(r"|Unnamed: \d+|__index_level_\d+__")
"""Columns that pandas writes for the number of a row: no part of the record."""
WIDEST = 2**31 - 1
"""Characters of a CSV cell, as many as the library can be told."""


def read(path: Path) -> list[Record]:
    """All records of a file, by its suffix. Raises: ConfigError naming the file, and the line where there is one."""
    kind = (suffix(path.name) or ".jsonl").lower().removesuffix(".gz").removesuffix(".zst")
    if kind == ".parquet":
        records = _parquet(path)
    elif kind in (".csv", ".tsv"):
        records = list(_table(path, _text(path), tabs=kind == ".tsv"))
    else:
        records = list(_json(path, _text(path)))
    if not records:
        raise ConfigError(f"{path} is empty: it has no record")
    return records


def suffix(name: str) -> str | None:
    """What a file name ends with, if that is one of SUFFIXES in whatever case."""
    end = next((end for end in SUFFIXES if name.lower().endswith(end) and len(name) > len(end)), None)
    return end and name[-len(end) :]


def extra_missing(what: str, library: str) -> ConfigError:
    """The error for an absent optional library."""
    return ConfigError(f"{what} needs the library {library}: pip install thinwire[data]")


def _text(path: Path) -> str:
    """A text file, unpacked and decoded: UTF-8, or UTF-16 with a mark at its start."""
    data = _unpacked(path)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        codec, name = "utf-16", "UTF-16"
    else:
        codec, name = "utf-8-sig", "UTF-8"
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not {name} text ({error.reason} at byte {error.start})") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ConfigError(f"{path}, line {line}: a zero character; allowed is UTF-8, or UTF-16 with its mark (BOM)")
    return text


def _unpacked(path: Path) -> bytes:
    name = path.name.lower()
    try:
        data = path.read_bytes()
        if name.endswith(".gz"):
            return gzip.decompress(data)
        return _unzstd(data) if name.endswith(".zst") else data
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError, EOFError) as error:
        kind = "gzip" if name.endswith(".gz") else "zstd"
        raise ConfigError(f"{path} is not a whole {kind} file: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error


def _unzstd(data: bytes) -> bytes:
    """All frames one after the other; a reader of the library would end silently where a frame is cut off."""
    pieces = []
    while True:
        frame = zstandard.ZstdDecompressor().decompressobj()
        pieces.append(frame.decompress(data))
        if not frame.eof:
            raise EOFError("it ends too early")
        if not frame.unused_data:
            return b"".join(pieces)
        data = frame.unused_data


def _json(path: Path, text: str) -> Iterator[Record]:
    """Records of an array of objects, or of an object a line, whichever it is."""
    if text.lstrip()[:1] == "[":
        values: Iterable[Any] = _parsed(path, text, str(path))
        for number, value in enumerate(values, start=1):
            yield Record(_object(value, f"{path}, record {number}"), f"{path}, record", number)
        return
    for number, line in enumerate(io.StringIO(text, newline=""), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            yield Record(_object(_parsed(path, line, place), place), f"{path}, line", number)


def _parsed(path: Path, text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        # the error's own line counts within what was parsed: it tells something for an array only
        at = f", line {error.lineno}" if place == str(path) else ""
        raise ConfigError(f"{place}{at}: not JSON ({error.msg}): {_shorten(text, error.pos)}; {_ALLOWED}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: not JSON ({error}): {_shorten(text)}") from None


_ALLOWED = "allowed is a JSON object a line, or one array of objects"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} occurs twice")
    return found


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: not a JSON object: {shown(value)}")
    return value


def _table(path: Path, text: str, tabs: bool) -> Iterator[Record]:
    """Records of a CSV or TSV file; empty lines are passed over."""
    csv.field_size_limit(WIDEST)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if tabs else _delimiter(text), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        kept = [at for at, name in enumerate(names) if not INDEX.fullmatch(name)]
        columns = [names[at] for at in kept]
        if len(set(columns)) < len(columns):
            raise ConfigError(f"{path}, line 1: a column name occurs twice: {', '.join(columns)}")
        first = reader.line_num + 1
        for row in reader:
            if any(row):
                if len(row) != len(names):
                    what = f"{len(row)} fields, but the header has {len(names)}"
                    raise ConfigError(f"{path}, line {first}: {what}")
                yield Record({names[at]: row[at] for at in kept}, f"{path}, line", first)
            first = reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def _delimiter(text: str) -> str:
    """A comma, unless the header has none outside of quotes, but semicolons or tabs."""
    header = re.sub(r'"[^"]*"', "", text[:100_000].lstrip("\r\n").partition("\n")[0])
    return next((mark for mark in ",;\t" if mark in header), ",")


def _parquet(path: Path) -> list[Record]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise extra_missing(f"{path}: Parquet", "pyarrow") from error
    try:
        table = parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{path} is not readable Parquet: {error}") from error
    names = table.column_names
    if len(set(names)) < len(names):
        raise ConfigError(f"{path}: a column name occurs twice: {', '.join(names)}")
    columns = {name: _column(path, name, table[name]) for name in names if not INDEX.fullmatch(name)}
    rows = range(1, table.num_rows + 1)
    return [Record({name: own[row - 1] for name, own in columns.items()}, f"{path}, record", row) for row in rows]


def _column(path: Path, name: str, column: Any) -> list[Any]:
    import pyarrow

    try:
        return column.to_pylist()
    except (pyarrow.ArrowException, ValueError, OverflowError, TypeError, KeyError, OSError) as error:
        raise ConfigError(f"{path}, column {name!r}: {column.type} values that cannot be read: {error}") from error


def _shorten(line: str, position: int = 0) -> str:
    line = " ".join(line[max(position - 40, 0) if len(line) > 80 else 0 :][:200].split())
    return line if len(line) <= 80 else line[:77] + "..."
