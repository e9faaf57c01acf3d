"""One file to records, and what each kind of bad file is told."""

import gzip
import sys

import pytest

from thinwire.data.readers import SUFFIXES, read
from thinwire.settings import ConfigError

TWO = [{"instruction": 'Say, "hi"\nplease', "response": "höh"}, {"instruction": "2", "response": "4"}]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_records(write, suffix):
    assert read(write("a" + suffix, TWO)) == TWO


def test_values_keep_their_types_where_the_format_has_types(write):
    typed = [{"instruction": "a", "label": 3, "score": 0.5, "none": None}]
    assert read(write("a.jsonl", typed)) == typed
    assert read(write("a.parquet", typed)) == typed


def test_a_byte_order_mark_and_blank_lines_are_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n  \n{"a": 2}')
    assert read(path) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"a": 1', "not JSON"),
        ("hello", "not JSON"),
        ("[1, 2]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
        ('{"a": "' + "x" * 500, "x..."),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, said):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"a": 0}\n\n' + line + '\n{"a": 1}\n')
    with pytest.raises(ConfigError, match=r"bad\.jsonl, line 3: ") as caught:
        read(path)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n3\n", "line 3: 1 fields, but the header has 2"),
        ("a,b\n1,2,3\n", "line 2: 3 fields, but the header has 2"),
        ("a,a\n1,2\n", "line 1: a column name occurs twice"),
        ('a,b\n"1"x,2\n', "line 2: not CSV"),
        ('a,b\n"1,2\n', "not CSV"),
    ],
)
def test_a_malformed_csv_row_is_named(tmp_path, text, said):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["e.jsonl", "e.csv"])
@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file_is_an_error(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="is empty"):
        read(tmp_path / name)


def test_a_header_alone_is_empty(tmp_path, write):
    (tmp_path / "h.csv").write_text("a,b\n")
    with pytest.raises(ConfigError, match="is empty"):
        read(tmp_path / "h.csv")


def test_damaged_gzip(tmp_path):
    whole = gzip.compress(b'{"a": 1}\n' * 1000)
    for name, data in {
        "cut": whole[:-20],
        "plain": b'{"a": 1}\n',
        "flipped": whole[:15] + b"\xff\xff" + whole[17:],
    }.items():
        path = tmp_path / f"{name}.jsonl.gz"
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=rf"{name}\.jsonl\.gz is not a whole gzip file"):
            read(path)


def test_not_utf8(tmp_path):
    (tmp_path / "l.jsonl").write_bytes(b'{"a": "\xe9"}\n')
    with pytest.raises(ConfigError, match=r"l\.jsonl is not UTF-8"):
        read(tmp_path / "l.jsonl")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"x\.jsonl cannot be read: No such file"):
        read(tmp_path / "x.jsonl")


def test_bad_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "b.parquet").write_bytes(b"no parquet here")
    with pytest.raises(ConfigError, match=r"b\.parquet is not readable Parquet"):
        read(tmp_path / "b.parquet")


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install thinwire\[data\]"):
        read(tmp_path / "a.parquet")
