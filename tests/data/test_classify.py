"""Records with classes: label sets, what is refused, tokens and their labels."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.config import from_dict
from thinwire.data import ClassExample
from thinwire.data.classify import encode_texts, encode_words, label_set
from thinwire.data.config import DataConfig
from thinwire.data.encode import encode_all
from thinwire.data.load import load
from thinwire.settings import ConfigError

SEQUENCE = DataConfig(task="sequence", max_length=8)
TOKEN = DataConfig(task="token", max_length=16)


def rows(*labels):
    return [{"text": "ab", "label": label} for label in labels]


def test_the_label_set_is_sorted_numbers_by_value():
    assert label_set(rows("b", "a", "b"), SEQUENCE) == ("a", "b")
    assert label_set(rows(10, 2, 0), SEQUENCE) == ("0", "2", "10")
    assert label_set(rows("b"), DataConfig(task="sequence", labels=("c", "b"))) == ("c", "b")
    words = [{"text": "x y", "label": ["O", "B"]}, {"text": "z", "label": "I"}]
    assert label_set(words, TOKEN) == ("B", "I", "O")


@pytest.mark.parametrize("record", [{"text": "a"}, {"text": "a", "label": None}, {"text": "a", "label": ""}])
def test_a_missing_label_is_named(record):
    with pytest.raises(ConfigError, match=r"data\.label: a record, column 'label': there is no class; .* are 'text'"):
        label_set([record], SEQUENCE)


def test_texts_have_one_class_and_are_cut(tokenizer):
    examples = encode_texts([*rows("x", "y"), {"text": "0123456789", "label": "x"}], tokenizer, SEQUENCE, ("x", "y"))
    assert [example.labels for (example,) in examples] == [(0,), (1,), (0,)]
    assert [len(example.tokens) for (example,) in examples] == [2, 2, 8]
    assert isinstance(examples[0][0], ClassExample)


def test_a_text_without_tokens_is_no_example_and_padding_never_ends_one(tokenizer, make_tokenizer):
    assert encode_texts([{"text": "", "label": "x"}], tokenizer, SEQUENCE, ("x", "y")) == [[]]
    ending = make_tokenizer(end=True)
    ending.pad_token = ending.eos_token
    ((example,),) = encode_texts(rows("x"), ending, SEQUENCE, ("x", "y"))
    assert ending.decode(example.tokens) == "ab"


def test_a_words_class_is_at_its_first_token(make_tokenizer):
    tokenizer = make_tokenizer(start=True, end=True)
    record = {"text": ["ab", "c", "def"], "label": ["O", "B", "O"]}
    ((example,),) = encode_words([record], tokenizer, TOKEN, ("B", "O"))
    assert tokenizer.decode(example.tokens) == "<s>ab c def</s>"
    # <s> a b space c space d e f </s>; a space belongs to no word
    assert example.labels == (-100, 1, -100, -100, 0, -100, 1, -100, -100, -100)
    (same,) = encode_words([{"text": "ab c def", "label": "O B O"}], tokenizer, TOKEN, ("B", "O"))
    assert same == [example]


def test_words_beyond_the_length_have_no_label(tokenizer):
    ((example,),) = encode_words(
        [{"text": "aaaaaaaa bb cc", "label": "x y x"}], tokenizer, DataConfig(task="token", max_length=10), ("x", "y")
    )
    assert example.labels == (0, *[-100] * 8, 1)


@given(st.lists(st.tuples(st.text("abcé世", min_size=1, max_size=5), st.sampled_from("xyz")), min_size=1, max_size=8))
def test_every_word_has_its_label_once_and_in_order(tokenizer, pairs):
    record = {"text": [word for word, _ in pairs], "label": [label for _, label in pairs]}
    ((example,),) = encode_words([record], tokenizer, DataConfig(task="token", max_length=512), ("x", "y", "z"))
    assert ["xyz"[label] for label in example.labels if label != -100] == record["label"]


def test_unequal_numbers_of_words_and_labels_are_named(tokenizer):
    with pytest.raises(ConfigError, match=r"data\.label: a record, column 'label': 1 labels for the 2 words of 'a b'"):
        encode_words([{"text": "a b", "label": "x"}], tokenizer, TOKEN, ("x",))


@pytest.fixture
def news(write, tmp_path):
    """Ten topics, 12 records to train on and 5 to test on of each, and a second domain to be scored only."""
    for split, count in (("train", 12), ("test", 5)):
        write(f"news.{split}.jsonl", [{"text": f"{t} {i}", "label": f"t{t}"} for t in range(10) for i in range(count)])
    write("old.test.jsonl", [{"text": "x", "label": "t3"}])
    return tmp_path


def config_of(folder, **fields):
    return DataConfig(task="sequence", source=str(folder), clients=("news",), **fields)


def test_dirichlet_divides_by_the_class_and_shares_the_tests_in_the_same_proportions(news, tokenizer):
    config = config_of(news, evaluate=("old",), partition="dirichlet", count=20, alpha=0.1)
    data = load(config, 3)
    assert data.classes == tuple(f"t{t}" for t in range(10))
    assert all(data.clients.values())
    assert data.labels["client-00"] == [record["label"] for record in data.clients["client-00"]]
    assert data.owners["old"] == [None]
    owners = data.owners["news"]
    assert None not in owners
    for name in set(owners):  # who is tested on a label holds the larger part of its training records too
        tested = {row["label"] for row, owner in zip(data.tests["news"], owners, strict=True) if owner == name}
        assert len(tested & set(data.labels[name])) >= len(tested) - 1
    most = max(data.clients, key=lambda name: len(data.clients[name]))
    assert owners.count(most) == pytest.approx(5 / 12 * len(data.clients[most]), abs=6)
    found = encode_all(data, tokenizer, config)
    assert found.owners == data.owners
    assert load(config, 3) == data != load(config, 4)


def test_iid_deals_the_tests_evenly_and_a_column_names_their_owner(news, write):
    owners = load(config_of(news, partition="iid", count=20), 0).owners["news"]
    assert sorted(owners.count(name) for name in set(owners)) == [2] * 10 + [3] * 10
    assert set(load(config_of(news), 0).owners["news"]) == {"news"}
    path = write("all.csv", [{"who": "xyz"[i % 3], "text": str(i), "label": i % 2} for i in range(60)])
    data = load(DataConfig(task="sequence", source=str(path), partition="column", column="who"), 0)
    assert data.owners["all"] == [record["who"] for record in data.tests["all"]]
    assert data.classes == ("0", "1")


def test_a_label_that_no_training_record_has_is_named(news, write):
    write("news.test.jsonl", rows("t1", "t77"))
    said = r"news\.test\.jsonl, line 2, column 'label': 't77' \(in the test records of news\) is none of .*: t0"
    with pytest.raises(ConfigError, match=said):
        load(config_of(news), 0)
    with pytest.raises(ConfigError, match=r"'t0' \(in the training records\) is none of data\.labels: t1, t77"):
        load(config_of(news, labels=("t1", "t77")), 0)


def test_a_single_class_is_refused(write):
    with pytest.raises(ConfigError, match="all training records are 'x'; two are needed"):
        load(DataConfig(task="sequence", source=str(write("one.jsonl", rows(*"xxx")))), 0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"task": "sequence"}, "data.source = 'generator' has no classes"),
        ({"task": "sequence", "source": "x", "labels": ["a", "a"]}, "allowed is every class once"),
        ({"held_out": "tail"}, "data.held_out = 'tail': allowed with data.task = text and data.template = plain only"),
        ({"task": "tokens"}, "data.task = 'tokens': allowed is one of text, sequence, token"),
    ],
)
def test_settings_that_contradict_each_other_are_named(fields, said):
    with pytest.raises(ConfigError) as error:
        from_dict({"data": fields})
    assert said in str(error.value)


def test_class_names_of_a_hugging_face_data_set_also_in_lists(tmp_path):
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["O", "PER"])
    features = datasets.Features({"text": datasets.List(datasets.Value("string")), "label": datasets.List(names)})
    table = {"text": [["Ann", "sat"], ["so"]] * 10, "label": [[1, 0], [0]] * 10}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(table, features)}).save_to_disk(tmp_path / "ner")
    data = load(DataConfig(task="token", source=str(tmp_path / "ner")), 0)
    assert data.classes == ("O", "PER")
    assert {json.dumps(row["label"]) for row in data.clients["ner"]} <= {'["PER", "O"]', '["O"]'}


def test_the_tail_of_every_text_is_held_out(write):
    path = write("all.jsonl", [{"who": name, "text": "one two three four five " * 4} for name in "xyz"])
    fields = {"partition": "column", "column": "who", "template": "plain", "held_out": "tail"}
    data = load(DataConfig(source=str(path), **fields), 0)
    assert data.owners["all"] == ["x", "y", "z"]
    for name, test in zip("xyz", data.tests["all"], strict=True):
        (train,) = data.clients[name]
        assert f"{train['text']} {test['text']}" == "one two three four five " * 4
        assert 0.08 < len(test["text"]) / 96 < 0.15


def test_numbers_beside_true_and_false_are_one_class_too_many(write):
    path = write("mixed.jsonl", [{"text": f"x {i}", "label": (1, 0, True, False)[i % 4]} for i in range(40)])
    with pytest.raises(ConfigError, match=r"data\.label = 'label': numbers beside true .*0, 1, false, true"):
        load(DataConfig(task="sequence", source=str(path)), 0)
    assert len(load(DataConfig(task="sequence", source=str(path), labels=("0", "1", "true", "false")), 0).classes) == 4
    with pytest.raises(ConfigError, match=r"data\.labels = .*: allowed is every class once"):
        load(DataConfig(task="sequence", source=str(path), labels=("1", "1.0", "true")), 0)


def test_clients_agree_on_the_classes_whatever_their_format(write, tmp_path):
    write("a.jsonl", [{"text": f"a {i}", "label": (1, 0.0)[i % 2]} for i in range(20)])
    write("b.csv", [{"text": f"b {i}", "label": ("1.0", "0")[i % 2]} for i in range(20)])
    write("c.parquet", [{"text": f"c {i}".encode(), "label": (1.0, 0.0)[i % 2]} for i in range(20)])
    data = load(DataConfig(task="sequence", source=str(tmp_path), partition="file"), 0)
    assert list(data.clients) == ["a", "b", "c"]
    assert data.classes == ("0", "1")


def test_an_empty_cell_names_no_client(write):
    rows = [{"who": "a" if i else "", "text": f"x {i}", "label": i % 2} for i in range(9, -1, -1)]
    with pytest.raises(ConfigError, match=r"all\.csv, line 11, column 'who': nothing is there"):
        load(DataConfig(task="sequence", source=str(write("all.csv", rows)), partition="column", column="who"), 0)
