"""Texts, tokens and labels of a record; a token is a byte, so that lengths can be counted by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.data.config import DataConfig
from thinwire.data.templates import encode, encode_many, rows_of, write
from thinwire.settings import ConfigError

RECORD = {"instruction": "Add.", "input": "1 2", "response": "3"}
PROMPT = "### Instruction:\nAdd.\n\n### Response:\n"


def one(record, tokenizer, config):
    """The record's only example, or None."""
    examples = encode(record, tokenizer, config)
    assert len(examples) < 2
    return examples[0] if examples else None


def split(example, tokenizer):
    """(text without loss, text with loss) of an example whose labels are checked."""
    cut = sum(label == -100 for label in example.labels)
    assert example.labels == (-100,) * cut + example.tokens[cut:]
    return tokenizer.decode(example.tokens[:cut]), tokenizer.decode(example.tokens[cut:])


def test_alpaca_with_and_without_input(tokenizer):
    config = DataConfig()
    prompt = "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"
    assert split(one(RECORD, tokenizer, config), tokenizer) == (prompt, "3</s>")
    for absent in ({}, {"input": ""}, {"input": None}):
        record = {"instruction": "Add.", "response": "3"} | absent
        assert split(one(record, tokenizer, config), tokenizer) == (PROMPT, "3</s>")


def test_columns_are_the_configs(tokenizer):
    config = DataConfig(instruction="text", context="hint", response="label")
    example = one({"text": "Add.", "hint": None, "label": 3}, tokenizer, config)
    assert split(example, tokenizer) == (PROMPT, "3</s>")


def test_a_start_token_comes_once_and_an_end_token_after_the_response(make_tokenizer):
    tokenizer = make_tokenizer(start=True, end=True)
    example = one(RECORD | {"input": ""}, tokenizer, DataConfig())
    assert split(example, tokenizer) == ("<s>" + PROMPT, "3</s>")
    assert example.tokens.count(256) == example.tokens.count(257) == 1


def test_what_is_encoded_before_the_response_is_the_prompt_to_generate_from(make_tokenizer, chat):
    tokenizer = make_tokenizer(start=True, end=True, chat=chat)
    prompt = tokenizer("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n")["input_ids"][:-1]
    (row,) = rows_of([RECORD], tokenizer, DataConfig())
    assert list(row.tokens[: row.prompt]) == prompt
    turns = [{"role": "user", "content": "Add.\n\n1 2"}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    (row,) = rows_of([RECORD], tokenizer, DataConfig(template="chat"))
    assert list(row.tokens[: row.prompt]) == prompt


@pytest.mark.parametrize(
    ("room", "kept"), [(-1, None), (0, None), (1, "a"), (5, "abcde"), (6, "abcde</s>"), (9, "abcde</s>")]
)
def test_a_long_response_is_cut_and_a_long_prompt_refused(tokenizer, room, kept):
    config = DataConfig(max_length=len(PROMPT) + room)
    example = one({"instruction": "Add.", "response": "abcde"}, tokenizer, config)
    assert kept is None if example is None else split(example, tokenizer) == (PROMPT, kept)


def test_an_empty_response_is_no_example(tokenizer):
    for response in ("", None):
        assert one(RECORD | {"response": response}, tokenizer, DataConfig()) is None


@pytest.mark.parametrize("column", ["instruction", "response"])
def test_a_missing_column_is_named_with_those_there_are(tokenizer, column):
    record = {key: value for key, value in RECORD.items() if key != column}
    with pytest.raises(ConfigError, match=rf"data\.{column}: a record, column '{column}' is missing; .*input"):
        one(record, tokenizer, DataConfig())


def test_chat_writes_the_turns_and_trains_the_whole_answer(make_tokenizer, chat):
    tokenizer = make_tokenizer(start=True, chat=chat)
    example = one(RECORD, tokenizer, DataConfig(template="chat"))
    assert split(example, tokenizer) == ("<s>user\nAdd.\n\n1 2</s>\n<s>assistant\n", "3</s>\n")


def test_chat_whose_prompt_opens_a_thought_answers_after_it(make_tokenizer, chat):
    tokenizer = make_tokenizer(chat=chat.replace("<s>assistant\n{% endif", "<s>assistant\n<think>{% endif"))
    example = one(RECORD, tokenizer, DataConfig(template="chat"))
    assert split(example, tokenizer) == ("<s>user\nAdd.\n\n1 2</s>\n<s>assistant\n<think>", "3</s>\n")


def test_chat_without_a_template_is_refused(tokenizer):
    with pytest.raises(ConfigError, match=r"data\.template = 'chat': .* has no chat template"):
        one(RECORD, tokenizer, DataConfig(template="chat"))


def test_plain_takes_the_loss_on_everything(tokenizer):
    config = DataConfig(template="plain", max_length=8)
    for record in ({"text": "ab"}, {"instruction": "ab"}):
        assert split(one(record, tokenizer, config), tokenizer) == ("", "ab</s>")
    assert split(one({"instruction": "a", "response": "b"}, tokenizer, config), tokenizer) == ("", "a\nb</s>")
    assert one({"text": ""}, tokenizer, config) is None
    with pytest.raises(ConfigError, match=r"data\.text: a record, column 'text' is missing; the columns are 'body'"):
        one({"body": "a"}, tokenizer, config)


@settings(deadline=None)
@given(st.text(), st.text(), st.text(), st.integers(8, 200), st.sampled_from(["alpaca", "chat"]))
def test_any_text_is_cut_at_most_and_never_shifted(
    make_tokenizer, chat, instruction, context, response, length, template
):
    tokenizer = make_tokenizer(chat=chat)
    config = DataConfig(max_length=length, template=template)
    record = {"instruction": instruction, "input": context, "response": response}
    pieces = write(record, tokenizer, config).pieces
    example = one(record, tokenizer, config)
    if not response:
        assert (pieces, example) == ((), None)
        return
    prompt, said = (piece.text for piece in pieces if piece.text)
    before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, said))
    if example is None:
        assert len(before) >= length
        return
    whole = before + after + ([257] if template != "chat" else [])
    assert list(example.tokens) == whole[:length]
    assert example.labels == (-100,) * len(before) + example.tokens[len(before) :]
    assert any(label != -100 for label in example.labels)


def test_many_are_encoded_as_one_is(tokenizer, records):
    batch = [*records(5), {"instruction": "x" * 200, "response": "y"}, {"instruction": "x", "response": ""}]
    assert encode_many(batch, tokenizer, DataConfig()) == [encode(row, tokenizer, DataConfig()) for row in batch]
    assert encode_many([], tokenizer, DataConfig()) == []


def test_a_long_plain_text_becomes_several_sequences_and_every_token_is_predicted_once(tokenizer):
    config = DataConfig(template="plain", max_length=8)
    examples = encode({"text": "0123456789abcdefgh"}, tokenizer, config)
    assert [split(example, tokenizer)[1] for example in examples] == ["01234567", "789abcde", "efgh</s>"]
    exact = encode({"text": "0123456"}, tokenizer, config)
    assert [split(example, tokenizer)[1] for example in exact] == ["0123456</s>"]


@settings(deadline=None)
@given(st.text(min_size=1), st.integers(8, 40))
def test_what_plain_predicts_is_the_text_after_its_first_token(tokenizer, text, length):
    examples = encode({"text": text}, tokenizer, DataConfig(template="plain", max_length=length))
    whole = [*tokenizer(text, add_special_tokens=False)["input_ids"], 257]
    assert [token for example in examples for token in example.labels[1:]] == whole[1:]
    assert examples[0].tokens[0] == whole[0]
    assert all(2 <= len(example.tokens) <= length for example in examples)
