"""Records with classes: their label set, and their examples, one class a text or one class a word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from thinwire.data import IGNORED, ClassExample, TokenClassExample
from thinwire.data.config import DataConfig
from thinwire.data.templates import Tokenizer
from thinwire.data.values import Record, as_label, as_labels, as_text, as_words, at, by_value, columns, missing, shown
from thinwire.settings import ConfigError, listed

Offsets = Sequence[tuple[int, int]]
"""Of each token: where it begins and ends in the text; (0, 0) if it is none of the text."""


def label_set(records: Iterable[Record], config: DataConfig) -> tuple[str, ...]:
    """`data.labels`, or every label of the records, sorted: numbers by value, then words. Raises: ConfigError."""
    if config.labels:
        given = tuple(as_label(label, "data.labels") for label in config.labels)
        if len({*given, ""}) <= len(given):
            raise ConfigError(f"data.labels = {list(config.labels)!r}: allowed is every class once, and none empty")
        return given
    return tuple(sorted({label for record in records for label in labels_of(record, config)}, key=by_value))


def labels_of(record: Record, config: DataConfig) -> list[str]:
    """The labels of a record: one, or with `data.task` = token one a word. Raises: ConfigError for a missing one."""
    value, place = record.get(config.label), at(record, config.label, "label")
    labels = as_labels(value, place) if config.task == "token" else [as_label(value, place)]
    if labels in ([], [""]):
        raise ConfigError(f"{place}: there is no class; the columns are {columns(record)}")
    return labels


def text_of(record: Record, config: DataConfig) -> Any:
    """What is classified: a text, or its words. Raises: ConfigError for a missing one."""
    value, place = record.get(config.text), at(record, config.text, "text")
    found = as_words(value, place) if config.task == "token" else as_text(value, place)
    if missing(value):
        raise ConfigError(f"{place}: there is no text; the columns are {columns(record)}")
    return found


def check_labels(records: Iterable[Record], classes: Sequence[str], config: DataConfig, where: str) -> None:
    """Raises: ConfigError naming a label that is none of the classes."""
    known = set(classes)
    for record in records:
        for label in labels_of(record, config):
            if label not in known:
                what = "data.labels" if config.labels else "the training records' labels"
                place = at(record, config.label, "label")
                raise ConfigError(f"{place}: {label!r} ({where}) is none of {what}: {listed(classes, 8)}")


def encode_texts(
    records: Sequence[Record], tokenizer: Tokenizer, config: DataConfig, classes: Sequence[str]
) -> list[list[ClassExample]]:
    """One example a record, cut at `data.max_length` tokens; none where the text has no token."""
    texts = [text_of(record, config) for record in records]
    rows = _tokenised(texts, tokenizer, config)["input_ids"]
    number = {label: index for index, label in enumerate(classes)}
    return [
        [ClassExample(tokens, (number[labels_of(record, config)[0]],))] if (tokens := _unpadded(row, tokenizer)) else []
        for record, row in zip(records, rows, strict=True)
    ]


def encode_words(
    records: Sequence[Record], tokenizer: Tokenizer, config: DataConfig, classes: Sequence[str]
) -> list[list[TokenClassExample]]:
    """One example a record, cut at `data.max_length` tokens; a word's class is that of its first token.

    Words and labels are lists, or texts that are split at white space. Raises: ConfigError if their numbers differ.
    """
    number = {label: index for index, label in enumerate(classes)}
    words = [text_of(record, config) for record in records]
    labels = [[number[label] for label in labels_of(record, config)] for record in records]
    for record, own, tags in zip(records, words, labels, strict=True):
        if len(own) != len(tags):
            what = f"{len(tags)} labels for the {len(own)} words of {shown(' '.join(own))}"
            raise ConfigError(f"{at(record, config.label, 'label')}: {what}")
    rows = _tokenised([" ".join(own) for own in words], tokenizer, config, offsets=True)
    examples = [
        TokenClassExample(tuple(row), _spread(own, tags, places))
        for row, own, tags, places in zip(rows["input_ids"], words, labels, rows["offset_mapping"], strict=True)
    ]
    return [[example] if any(label != IGNORED for label in example.labels) else [] for example in examples]


def _tokenised(texts: list[str], tokenizer: Tokenizer, config: DataConfig, offsets: bool = False) -> Any:
    if not texts:
        return {"input_ids": [], "offset_mapping": []}
    return tokenizer(
        texts, truncation=True, max_length=config.max_length, return_offsets_mapping=offsets, verbose=False
    )


def _unpadded(row: Sequence[int], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens without padding at their end, by which a causal classifier finds the last one."""
    end = len(row)
    while end and row[end - 1] == tokenizer.pad_token_id:
        end -= 1
    return tuple(row[:end])


def _spread(words: Sequence[str], labels: Sequence[int], places: Offsets) -> tuple[int, ...]:
    """A label for each token: the word's at the first token that reaches into it, else -100."""
    spread = [IGNORED] * len(places)
    begins = 0
    token = 0
    for word, label in zip(words, labels, strict=True):
        while token < len(places) and places[token][1] <= begins:
            token += 1
        if token == len(places):
            break
        spread[token] = label
        begins += len(word) + 1
    return tuple(spread)

