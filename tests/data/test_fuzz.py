"""Whatever is in data files, file names, recipes and names of clients: a result, or an error that names it."""

import io
import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from thinwire.config import Recipe, apply_change, from_dict, load_recipe
from thinwire.data import summary
from thinwire.data.config import DataConfig
from thinwire.data.encode import encode_all
from thinwire.data.load import Dataset, load
from thinwire.data.readers import SUFFIXES
from thinwire.data.sources import open_source
from thinwire.settings import ConfigError
from thinwire.storage.directory import file_name

EXAMPLES = int(os.environ.get("THINWIRE_FUZZ", "40"))
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
COLUMNS = ("instruction", "input", "response", "text", "label", "who", "image")
LETTERS = st.text(st.characters(), max_size=12)  # with surrogates and control characters
NUMBERS = st.booleans() | st.integers(-(10**20), 10**20) | st.floats()
SCALARS = st.none() | NUMBERS | LETTERS | st.sampled_from(["a", "1", "1.0"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(LETTERS, inner, max_size=3), max_leaves=6
)
USUAL = st.sampled_from(["a", "b c", "['a', 'b']", 1, 1.0, 2])
RECORDS = st.one_of(
    st.lists(st.dictionaries(st.sampled_from(COLUMNS), VALUES | USUAL), max_size=12),
    st.lists(st.fixed_dictionaries(dict.fromkeys(COLUMNS, USUAL | SCALARS)), max_size=12),
    st.lists(st.fixed_dictionaries(dict.fromkeys(COLUMNS, USUAL)), max_size=12),
)
LINES = st.lists(st.text('a1"\\,;\t[]{}:null \r\n\ufeff\u2028é', max_size=12), max_size=8).map("\n".join)
CONFIGS = st.fixed_dictionaries(
    {
        "task": st.sampled_from(["text", "sequence", "token", "image"]),
        "template": st.sampled_from(["alpaca", "plain"]),
        "partition": st.sampled_from(["file", "column", "iid", "dirichlet"]),
        "column": st.sampled_from(COLUMNS),
        "count": st.just(2),
        "split": st.sampled_from(["test", "validation"]),
    }
)


def read(folder: Path, name: str, content: bytes, tokenizer: object, fields: dict[str, object]) -> None:
    """Raises: whatever is not a ConfigError."""
    (folder / name).write_bytes(content)
    config = DataConfig(source=str(folder / name), **fields)
    with suppress(ConfigError):
        encode_all(load(config, 0), tokenizer, config)


@FUZZ
@given(RECORDS, CONFIGS, st.sampled_from(["lines", "array"]))
def test_records_of_anything(tmp_path, tokenizer, records, fields, form):
    lines = "\n".join(map(json.dumps, records)) if form == "lines" else json.dumps(records)
    read(tmp_path, "a.json", lines.encode(), tokenizer, fields)


@FUZZ
@given(st.binary(max_size=60) | LINES.map(str.encode) | LINES.map(lambda text: text.encode("utf-16")), CONFIGS,
       st.sampled_from(SUFFIXES))  # fmt: skip
def test_files_of_anything(tmp_path, tokenizer, content, fields, suffix):
    read(tmp_path, f"a{suffix}", content, tokenizer, fields)


@FUZZ
@given(RECORDS, CONFIGS)
def test_parquet_of_anything(tmp_path, tokenizer, records, fields):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    try:
        parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "made.parquet")
    except (pyarrow.ArrowException, UnicodeError, OverflowError):
        return  # no such file can be made
    read(tmp_path, "a.parquet", (tmp_path / "made.parquet").read_bytes(), tokenizer, fields)


WORDS = st.sampled_from(
    ["north", "test", "Dev", "val", "train", ".", "_",
     "-", ".jsonl", ".CSV", ".xlsx", ".gz", "é", "[b]"]
)  # fmt: skip


@FUZZ
@given(st.lists(st.lists(WORDS, min_size=1, max_size=5).map("".join) | LETTERS, min_size=1, max_size=5, unique=True))
def test_every_file_is_found_or_listed_or_refused(names):
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            with suppress(OSError, ValueError, UnicodeError):
                (Path(folder) / name).write_text('{"a": 1}\n')
        seen = {path.name for path in Path(folder).iterdir() if not path.name.startswith(".")}
        try:
            source = open_source(DataConfig(source=folder), 0)
        except ConfigError:
            return
        used = {read.args[0].name for splits in source.domains.values() for read in splits.values()}
        listed = {name for name in seen if any(text.startswith(f"{name} (") for text in source.left_out)}
        assert used | listed == seen


KEYS = st.sampled_from(
    ["data.source", "data.clients", "data.count", "train.learning_rate",
     "federation.first_round", "method.name", "lora.ranks", "no.such"]
)  # fmt: skip
SECTIONS = st.sampled_from([*Recipe.__dataclass_fields__]) | LETTERS
FIELDS = st.dictionaries(st.sampled_from(["source", "rank", "count", "name"]) | LETTERS, VALUES, max_size=3)


@FUZZ
@given(st.dictionaries(SECTIONS, VALUES | FIELDS, max_size=3))
def test_recipes_of_anything(values):
    with suppress(ConfigError):
        assert isinstance(from_dict(values), Recipe)


@FUZZ
@given(st.binary(max_size=40) | LINES.map(str.encode))
def test_recipe_files_of_anything(tmp_path, content):
    (tmp_path / "recipe.toml").write_bytes(content)
    with suppress(ConfigError):
        load_recipe(tmp_path / "recipe.toml")


@FUZZ
@given(st.lists(st.tuples(KEYS, LINES | LETTERS).map("=".join) | LETTERS, max_size=3))
def test_changes_of_anything(changes):
    values: dict[str, object] = {}
    with suppress(ConfigError):
        for change in changes:
            apply_change(values, change)
        from_dict(values)


@FUZZ
@given(LETTERS | st.sampled_from([":", "", " ", "a:", "~", "x" * 300, "a/" * 3000]))
def test_sources_of_anything(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)  # what is not a file may be a name on the hub
    with suppress(ConfigError):
        open_source(DataConfig(source=source), 0)


NAMES = st.text(min_size=1, max_size=100) | st.sampled_from(["[b]", "[/b]", ":cat:", "a/b", "..", "a\\", "[" * 300])


@FUZZ
@given(st.lists(NAMES, min_size=2, max_size=6))
def test_names_of_clients_are_shown_and_are_names_of_files(tmp_path, names):
    rows = [{"who": name, "instruction": str(index), "response": "r"} for index, name in enumerate(names * 3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(source=str(tmp_path / "a.jsonl"), partition="column", column="who")
    try:
        data = load(config, 0)
    except ConfigError:
        return
    files = {file_name(name) for name in data.clients}
    assert len(files) == len(data.clients)
    assert all(len(name.encode()) <= 200 and "/" not in name and name not in (".", "..") for name in files)
    show(data)


def show(data: Dataset) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    console.print(summary.table(data))
