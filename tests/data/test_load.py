"""Who trains on what and who is tested on what, from settings and files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.data import generator, sources
from thinwire.data.config import DataConfig
from thinwire.data.divide import set_aside
from thinwire.data.encode import encode_all
from thinwire.data.load import Dataset, load
from thinwire.settings import ConfigError


@pytest.fixture
def folder(write, records, tmp_path) -> Path:
    """Domains a (train and test), b (train only), c (test only), d (all three)."""
    for name, count in {
        "a.train": 50,
        "a.test": 7,
        "b": 40,
        "c.test": 5,
        "d.train": 20,
        "d.validation": 4,
        "d.test": 3,
    }.items():
        write(f"{name}.jsonl", records(count, name))
    return tmp_path


def sizes(named):
    return {name: len(rows) for name, rows in named.items()}


def of(folder, seed=0, **fields):
    return load(DataConfig(source=str(folder), **fields), seed)


def test_the_default_is_the_generators_four_domains():
    data = load(DataConfig(), 0)
    assert sizes(data.clients) == dict.fromkeys(generator.DOMAINS, 1200)
    assert sizes(data.tests) == dict.fromkeys(generator.DOMAINS, 64)
    assert data.tests["math"] == generator.examples("math", "test", 64, 0)
    assert load(DataConfig(split="validation"), 0).tests["math"] == generator.examples("math", "validation", 64, 0)


def test_files_are_clients_and_what_cannot_train_is_none(folder):
    data = of(folder)
    assert sizes(data.clients) == {"a": 50, "b": 36, "d": 20}
    assert sizes(data.tests) == {"a": 7, "b": 4, "d": 3}
    assert data.labels["b"] == ["b"] * 36


def test_held_out_records_are_not_trained_on_and_the_same_for_every_seed(folder, records):
    data, other = of(folder, 0), of(folder, 1)
    assert data.tests == other.tests
    rows = data.clients["b"] + data.tests["b"]
    assert sorted(row["instruction"] for row in rows) == sorted(row["instruction"] for row in records(40, "b"))


def test_clients_then_evaluated_domains_in_the_order_given(folder):
    data = of(folder, clients=("d", "a"), evaluate=("c", "b"))
    assert list(data.clients) == ["d", "a"]
    assert list(data.tests) == ["d", "a", "c", "b"]
    assert list(of(folder, evaluate=("a",)).clients) == ["b", "d"]


def test_limits(folder):
    data = of(folder, train_limit=10, test_limit=2)
    assert sizes(data.clients) == {"a": 10, "b": 10, "d": 10}
    assert sizes(data.tests) == {"a": 2, "b": 2, "d": 2}
    other = of(folder, seed=1, train_limit=10, test_limit=2)
    assert other.clients != data.clients
    assert other.tests == data.tests


def test_on_the_validation_split_no_test_file_is_opened(folder, records, monkeypatch):
    def read(path):
        assert ".test." not in path.name
        return opened(path)

    opened = sources.read
    monkeypatch.setattr(sources, "read", read)
    data = of(folder, split="validation")
    assert sizes(data.clients) == {"a": 45, "b": 32, "d": 20}
    assert sizes(data.tests) == {"a": 5, "b": 4, "d": 4}
    assert data.tests["d"] == records(4, "d.validation")


def test_a_validation_share_stays_out_of_training_on_the_test_split_too(folder):
    tuned = of(folder, split="validation", validation=0.2)
    final = of(folder, split="test", validation=0.2)
    assert sizes(tuned.clients) == sizes(final.clients) == {"a": 40, "b": 29, "d": 20}
    assert tuned.clients == final.clients
    assert sizes(tuned.tests) == {"a": 10, "b": 7, "d": 4}
    assert sizes(final.tests) == {"a": 7, "b": 4, "d": 3}
    for domain in "ab":
        known = [row["instruction"] for row in tuned.clients[domain] + final.tests[domain]]
        assert not {row["instruction"] for row in tuned.tests[domain]} & set(known)


def test_iid_and_dirichlet_divide_the_pool_and_tests_stay_by_domain(folder):
    whole = of(folder)
    everything = sorted(row["instruction"] for rows in whole.clients.values() for row in rows)
    for fields in ({"partition": "iid"}, {"partition": "dirichlet", "alpha": 0.1}):
        data = of(folder, count=12, **fields)
        assert list(data.clients) == [f"client-{number:02}" for number in range(12)]
        assert sorted(row["instruction"] for rows in data.clients.values() for row in rows) == everything
        assert sizes(data.labels) == sizes(data.clients)
        assert all(row["instruction"].startswith(label) for name, rows in data.clients.items()
                   for label, row in zip(data.labels[name], rows, strict=True))  # fmt: skip
        assert data.tests == whole.tests
        assert data == of(folder, count=12, **fields)
        assert data != of(folder, seed=1, count=12, **fields)


def test_a_column_names_the_client(write):
    path = write("all.csv", [{"who": "xyz"[i % 3], "instruction": str(i), "response": "r"} for i in range(60)])
    data = of(path, partition="column", column="who")
    assert list(data.clients) == ["x", "y", "z"]
    assert all(row["who"] == name for name, rows in data.clients.items() for row in rows)
    assert list(data.tests) == ["all"]


def test_a_column_is_the_label_of_dirichlet(write):
    path = write("all.jsonl", [{"mood": i % 2, "instruction": str(i), "response": "r"} for i in range(60)])
    data = of(path, partition="dirichlet", column="mood", count=3)
    assert {label for labels in data.labels.values() for label in labels} == {"0", "1"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"clients": ("e",)}, r"data\.clients: e is unknown.*Allowed: a, b, c, d"),
        ({"evaluate": ("e",)}, r"data\.evaluate: e is unknown"),
        ({"clients": ("c",)}, r"data\.clients: c has no training records, only test"),
        ({"evaluate": ("a", "b", "d")}, "no domain is left to train on"),
        ({"evaluate": ("c",), "split": "validation"}, "c: there are no validation or train records"),
        ({"partition": "column"}, r"data\.column is missing"),
        ({"partition": "column", "column": "who"}, r"a\.train\.jsonl, line 1, column 'who': nothing is there"),
        ({"partition": "dirichlet", "clients": ("a",)}, r"data\.column is missing: dirichlet"),
        ({"partition": "iid", "count": 999}, r"data\.count = 999"),
    ],
)
def test_what_is_not_there_is_named(folder, fields, said):
    with pytest.raises(ConfigError, match=said):
        of(folder, **fields)


def test_one_record_is_too_few_to_hold_one_out(write, records):
    with pytest.raises(ConfigError, match="lone: of 1 records, equal ones as one, none is left beside the test split"):
        of(write("lone.jsonl", records(1)))
    data = of(write("pair.jsonl", records(2)))
    assert (sizes(data.clients), sizes(data.tests)) == ({"pair": 1}, {"pair": 1})


@given(st.lists(st.fixed_dictionaries({"a": st.integers(0, 20)}), min_size=1, max_size=60), st.floats(0.01, 0.9))
def test_equal_records_are_never_on_both_sides(rows, share):
    rest, aside = set_aside(rows, share, "data.test")
    assert len(rest) + len(aside) == len(rows)
    assert len(aside) >= max(1, round(share * len(rows)))
    assert not {row["a"] for row in rest} & {row["a"] for row in aside}
    moved = set_aside(list(reversed(rows)), share, "data.test")
    assert (list(reversed(moved[0])), list(reversed(moved[1]))) == (rest, aside)


def test_encoding_counts_what_it_skips(tokenizer, records):
    long = {"instruction": "x" * 200, "response": "y"}
    data = Dataset({"a": [*records(4), long, long], "b": records(2)}, {}, {"t": [*records(2), long]})
    found = encode_all(data, tokenizer, DataConfig())
    assert (sizes(found.clients), sizes(found.tests)) == ({"a": 4, "b": 2}, {"t": 2})
    reason = "records longer than data.max_length = 128 before the first token of a response"
    assert found.skipped == {reason: {"a": 2, "test/t": 1}}


def test_a_client_without_a_usable_example_is_named(tokenizer):
    rows = [{"instruction": "x" * length, "response": "y"} for length in (30, 20)]
    data = Dataset({"ward": rows}, {}, {})
    said = r"client ward: none of its 2 records fits data\.max_length = 32: the shortest prompt has 53 tokens"
    with pytest.raises(ConfigError, match=said):
        encode_all(data, tokenizer, DataConfig(max_length=32))
    with pytest.raises(ConfigError, match="client ward: none of its 1 records has a response"):
        encode_all(Dataset({"ward": [{"instruction": "x", "response": ""}]}, {}, {}), tokenizer, DataConfig())
    with pytest.raises(ConfigError, match="tests of t: none of its 2 records fits"):
        encode_all(Dataset({}, {}, {"t": rows}), tokenizer, DataConfig(max_length=32))
    with pytest.raises(ConfigError, match=r"client ward: data\.response: a record, column 'response' is missing"):
        encode_all(Dataset({"ward": [{"instruction": "x"}]}, {}, {}), tokenizer, DataConfig())
