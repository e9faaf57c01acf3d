"""Raw values as texts, classes, words and names, and the errors for what is none."""

import datetime
from decimal import Decimal

import pytest

from thinwire.data.values import Record, as_label, as_labels, as_text, as_words, at, by_value, text_in
from thinwire.settings import ConfigError

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (NAN, ""),
        (Decimal("NaN"), ""),
        (" as it is\n", " as it is\n"),
        (b"h\xc3\xb6h", "höh"),
        (True, "true"),
        (3, "3"),
        (3.0, "3"),
        (-0.0, "0"),
        (0.25, "0.25"),
        (1e22, "10000000000000000000000"),
        (Decimal("2.50"), "2.5"),
        (Decimal("4.00"), "4"),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.datetime(2024, 2, 29, 12, 30), "2024-02-29T12:30:00"),
    ],
)
def test_a_value_has_one_spelling(value, text):
    assert as_text(value, "here") == text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"text": ["a"]}, "a table where a text is expected"),
        ([{"role": "user"}], "a list where a text is expected"),
        (b"\xff\xfe", "not UTF-8"),
        ("a\ud800", r"character 2 is half of a surrogate pair \(\\ud800\)"),
        (float("inf"), "inf; allowed is a finite number"),
    ],
)
def test_what_is_no_text_is_named_with_its_place(value, said):
    record = Record({"answer": value}, "north.jsonl, line", 3)
    with pytest.raises(ConfigError, match=rf"data\.response: north\.jsonl, line 3, column 'answer': .*{said}"):
        text_in(record, "answer", "response")


def test_a_structure_is_shown_in_few_characters():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, ["x" * 10**6], {"k": 1}):
        with pytest.raises(ConfigError) as caught:
            as_text(value, "here")
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("values", [(1, 1.0, "1", "1.0", b"1", " 1 ", Decimal("1.0")), (True, "true", "True", "TRUE ")])
def test_a_class_has_one_spelling_in_every_format(values):
    assert len({as_label(value, "here") for value in values}) == 1


def test_names_are_composed_and_missing_ones_are_empty():
    assert as_label("Zu\u0308rich", "here") == as_label("Z\u00fcrich", "here") == "Z\u00fcrich"
    assert as_label("  ", "here") == as_label(NAN, "here") == ""
    assert (as_label("01", "here"), as_label("1.5", "here")) == ("01", "1.5")


def test_the_order_of_classes_is_total():
    names = ["b", "01", "1", "-1", "10", "a", "2", "001", "\u0661"]
    assert sorted(names, key=by_value) == ["-1", "1", "01", "001", "2", "10", "a", "b", "\u0661"]


@pytest.mark.parametrize("value", [["B-X", "O"], "B-X O", '["B-X", "O"]', "['B-X', 'O']"])
def test_words_are_lists_or_texts_and_lists_kept_as_text_are_lists(value):
    assert as_labels(value, "here") == as_words(value, "here") == ["B-X", "O"]


def test_numbers_in_lists_are_classes():
    assert as_labels([0, 1.0, True], "here") == as_labels("[0, 1.0, true]", "here") == ["0", "1", "true"]


@pytest.mark.parametrize("value", ["['B-X',", "['B-X' 'O']", "[B-X, O]", "['a', f()]", "[" * 100_000])
def test_what_only_begins_like_a_list_is_refused(value):
    with pytest.raises(ConfigError, match=r"here: .* begins like a list, but is none"):
        as_labels(value, "here")


def test_a_word_may_be_a_bracket():
    assert as_words("[ 1 ] see below", "here") == ["[", "1", "]", "see", "below"]


@pytest.mark.parametrize("value", [["O", None], ["O", ""], ["O", NAN]])
def test_a_missing_class_among_others_is_named(value):
    with pytest.raises(ConfigError, match="here, item 2: a class is missing"):
        as_labels(value, "here")


def test_a_nested_item_is_named():
    with pytest.raises(ConfigError, match="here, item 2: a list where a text is expected"):
        as_words(["a", ["b"]], "here")


def test_a_record_keeps_its_place():
    record = Record({"a": 1}, "x.csv, line", 7)
    assert record.changed("a", 2) == {"a": 2}
    assert at(record.changed("a", 2), "a", "text") == "data.text: x.csv, line 7, column 'a'"
    assert Record({}, "cat/1.png").place == "cat/1.png"
