"""One file to records, and what each kind of bad file is told."""

import decimal
import gzip
import sys

import pytest
import zstandard

from thinwire.data.readers import SUFFIXES, read
from thinwire.data.values import text_in
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
        ('{"a": "' + "x" * 500, "xxx"),
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
    with pytest.raises(ConfigError, match=r"l\.jsonl, line 1: not UTF-8 text"):
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


def put(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_json_is_lines_or_an_array_whatever_the_name(tmp_path):
    for name in ("a.json", "a.jsonl"):
        for text in ('[{"a": 1},\n {"a": 2}]', '\n {"a": 1}\r\n{"a": 2}'):
            assert read(put(tmp_path / name, text)) == [{"a": 1}, {"a": 2}]
    with pytest.raises(ConfigError, match=r"a\.json, record 2: not a JSON object: 3"):
        read(put(tmp_path / "a.json", '[{"a": 1}, 3]'))
    with pytest.raises(ConfigError, match=r"a\.json, line 2: not JSON .*; allowed is a JSON object a line"):
        read(put(tmp_path / "a.json", '[{"a": 1},\n {"a": }]'))
    with pytest.raises(ConfigError, match=r"a\.json, line 1: not JSON .*; allowed is a JSON object a line"):
        read(put(tmp_path / "a.json", '{\n "data": [{"a": 1}]\n}'))


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 1}}', '[{"a": 1, "a": 2}]'])
def test_a_key_that_occurs_twice_is_named(tmp_path, text):
    with pytest.raises(ConfigError, match=r"a\.jsonl.*: not JSON \(the key '[ab]' occurs twice\)"):
        read(put(tmp_path / "a.jsonl", text))


def test_a_huge_integer_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.jsonl, line 1: not JSON \(Exceeds the limit") as caught:
        read(put(tmp_path / "a.jsonl", '{"a": ' + "9" * 5000 + "}"))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_the_header_says_what_is_between_the_fields(tmp_path, mark):
    text = f'"a,;\tb"{mark} text \r\n1{mark}"x{mark} y"\r\n\r\n{mark}\r\n'
    assert read(put(tmp_path / "a.csv", text)) == [{"a,;\tb": "1", "text": f"x{mark} y"}]


def test_one_column_is_enough(tmp_path):
    assert read(put(tmp_path / "a.csv", "text\nHello, you; there\n".replace(",", ""))) == [{"text": "Hello you; there"}]


def test_a_record_of_several_lines_is_named_by_its_first(tmp_path):
    first, second = read(put(tmp_path / "a.csv", 'a\n"x\ny"\nz\n'))
    assert (first.place, second.place) == (f"{tmp_path}/a.csv, line 2", f"{tmp_path}/a.csv, line 4")


def test_cells_of_any_length(tmp_path):
    assert read(put(tmp_path / "a.csv", "a\n" + "x" * 300_000)) == [{"a": "x" * 300_000}]


@pytest.mark.parametrize("header", [",a", "Unnamed: 0,a", "__index_level_0__,a"])
def test_the_index_of_pandas_is_no_column(tmp_path, header):
    assert read(put(tmp_path / "a.csv", f"{header}\n0,x\n1,x\n")) == [{"a": "x"}, {"a": "x"}]


def test_the_index_of_pandas_in_parquet_is_no_column(tmp_path):
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"a": ["x", "y"]}, index=[5, 7]).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [{"a": "x"}, {"a": "y"}]


@pytest.mark.parametrize("codec", ["utf-16", "utf-8-sig"])
def test_files_with_a_mark_of_their_encoding(tmp_path, codec):
    assert read(put(tmp_path / "a.csv", "a\nh\u00f6h\n".encode(codec))) == [{"a": "h\u00f6h"}]
    assert read(put(tmp_path / "a.json", '[{"a": "h\u00f6h"}]'.encode(codec))) == [{"a": "h\u00f6h"}]


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_its_mark_is_named(tmp_path, codec):
    with pytest.raises(ConfigError, match=r"a\.csv, line 1: a zero character; .*UTF-16 with its mark"):
        read(put(tmp_path / "a.csv", "a\nb\n".encode(codec)))


def test_damaged_and_divided_zstd(tmp_path):
    frame = zstandard.compress(b'{"a": 1}\n' * 100)
    assert len(read(put(tmp_path / "two.jsonl.zst", frame + frame))) == 200
    for name, data in {"cut": frame[:-3], "cut2": frame + frame[:5], "plain": b'{"a": 1}\n'}.items():
        with pytest.raises(ConfigError, match=r"is not a whole zstd file"):
            read(put(tmp_path / f"{name}.jsonl.zst", data))


def test_parquet_values(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "binary": pyarrow.array([b"h\xc3\xb6h"]),
        "when": pyarrow.array([1_700_000_000_000_000_000], pyarrow.timestamp("ns")),
        "price": pyarrow.array([decimal.Decimal("2.50")]),
        "kind": pyarrow.array(["a"]).dictionary_encode(),
        "answers": pyarrow.array([{"text": ["x"]}]),
        "none": pyarrow.array([float("nan")]),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    (record,) = read(tmp_path / "a.parquet")
    texts = {name: text_in(record, name, "text") for name in columns if name != "answers"}
    assert texts == {"binary": "h\u00f6h", "when": "2023-11-14T22:13:20", "price": "2.5", "kind": "a", "none": ""}
    with pytest.raises(ConfigError, match=r"a\.parquet, record 1, column 'answers': a table where a text is expected"):
        text_in(record, "answers", "text")


def test_parquet_values_that_python_does_not_have_are_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"t": pyarrow.array([2**62], pyarrow.timestamp("us"))}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet, column 't': timestamp\[us\] values that cannot be read"):
        read(tmp_path / "a.parquet")
