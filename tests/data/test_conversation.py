"""Conversations in every usual form: which turns they are, and on which characters of which text the loss is."""

import json
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import chat_templates
from thinwire.config import from_dict
from thinwire.data.config import DataConfig
from thinwire.data.conversation import read_talk
from thinwire.data.encode import encode_all, skipped_words
from thinwire.data.load import Dataset
from thinwire.data.summary import forms
from thinwire.data.templates import encode, encode_many, rows_of
from thinwire.data.values import Record
from thinwire.settings import ConfigError

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And one?"},
    {"role": "assistant", "content": "Five."},
]
NAMES = {"user": "human", "assistant": "gpt", "system": "system"}
SHARED = [{"from": NAMES[turn["role"]], "value": turn["content"]} for turn in MESSAGES]
TURNS = [(turn["role"], turn["content"]) for turn in MESSAGES]
LONG = DataConfig(max_length=1000)
LAST = replace(LONG, turns="last")
CHATML = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nTwo and two?<|im_end|>\n<|im_start|>assistant\n"
    "[[Four.<|im_end|>\n]]<|im_start|>user\nAnd one?<|im_end|>\n<|im_start|>assistant\n[[Five.<|im_end|>\n]]"
)


def at(values):
    return Record(values, "talks.jsonl, line", 7)


def said(record, config=LONG):
    return [(turn.role, turn.content) for turn in read_talk(at(record), config).turns]


def marked(record, tokenizer, config=LONG):
    """The text of the record's only example, with [[ ]] around what the loss is on."""
    (example,) = encode(at(record), tokenizer, config)
    runs = []
    for token, label in zip(example.tokens, example.labels, strict=True):
        assert label in (-100, token)
        if not runs or runs[-1][0] != (label != -100):
            runs.append((label != -100, []))
        runs[-1][1].append(token)
    return "".join(f"[[{tokenizer.decode(run)}]]" if trained else tokenizer.decode(run) for trained, run in runs)


@pytest.fixture(scope="module")
def with_template(make_tokenizer):
    """The tokenizer with a template of `chat_templates`, or with none."""
    return lambda name: make_tokenizer(chat=name and getattr(chat_templates, name))


@pytest.fixture(scope="module")
def kept(with_template):
    """The same, one for each name."""
    return cache(with_template)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": MESSAGES},
        {"conversations": SHARED, "id": 3},
        {"messages": SHARED},
        {"messages": json.dumps(MESSAGES)},
        {"messages": tuple(MESSAGES), "prompt": "Two and two?"},
        {"messages": MESSAGES[1:], "system": "Be brief."},
        {"messages": MESSAGES, "system": "Be brief."},
        {"messages": MESSAGES, "instruction": None, "response": None},
        {"prompt": MESSAGES[:2], "completion": MESSAGES[2:]},
        {"instruction": MESSAGES[:4], "response": "Five."},
        {"messages": [*MESSAGES, {"role": "user", "content": "Thanks."}, {"role": "assistant", "content": None}]},
    ],
)
def test_every_form_is_the_same_turns(record):
    assert said(record) == TURNS


def test_a_content_in_parts_is_their_text():
    parts = [{"type": "text", "text": "Two and "}, {"text": "two?"}]
    assert said({"messages": [{"role": "user", "content": parts}, MESSAGES[2]]})[0] == ("user", "Two and two?")


def test_what_is_named_wins():
    both = {"instruction": "a", "response": "b", "messages": MESSAGES, "talk": SHARED[1:3]}
    with pytest.raises(ConfigError, match="line 7: it can be read as instruction with response or messages; allowed"):
        read_talk(at(both), LONG)
    assert said(both, replace(LONG, messages="messages")) == TURNS
    assert said(both, replace(LONG, messages="talk")) == TURNS[1:3]
    assert said(both, replace(LONG, messages="")) == [("user", "a"), ("assistant", "b")]
    assert said(both | {"q": "c"}, replace(LONG, instruction="q")) == [("user", "c"), ("assistant", "b")]
    pair = {"prompt": "a", "completion": "b"}
    assert said(pair) == [("user", "a"), ("assistant", "b")]
    assert said(pair | {"messages": MESSAGES}, replace(LONG, messages="")) == said(pair)


def test_a_system_column_is_read_beside_turns_and_where_it_is_named(tokenizer):
    pair = {"instruction": "a", "response": "b", "system": "linux"}
    assert said(pair) == [("user", "a"), ("assistant", "b")]
    assert said(pair, replace(LONG, system="system"))[0] == ("system", "linux")
    talk = {"messages": MESSAGES, "system": "Be verbose."}
    assert said(talk, replace(LONG, system="")) == TURNS
    with pytest.raises(ConfigError, match="line 7, column 'system': the conversation begins with another"):
        read_talk(at(talk), LONG)


def test_the_loss_is_on_every_answer_or_on_the_last(with_template):
    tokenizer = with_template("CHATML")
    assert marked({"messages": MESSAGES}, tokenizer) == CHATML
    first, second = "[[Four.<|im_end|>\n]]", "[[Five.<|im_end|>\n]]"
    assert marked({"messages": MESSAGES}, tokenizer, LAST) == CHATML.replace(first, first[2:-2])
    muted = [*MESSAGES[:2], MESSAGES[2] | {"weight": 0}, *MESSAGES[3:]]
    assert marked({"messages": muted}, tokenizer) == CHATML.replace(first, first[2:-2])
    asked = {"prompt": MESSAGES[:4], "completion": MESSAGES[4:]}
    assert marked(asked, tokenizer) == CHATML.replace(first, first[2:-2])
    silent = [*MESSAGES[:4], MESSAGES[4] | {"weight": 0.0}]
    assert marked({"messages": silent}, tokenizer) == CHATML[: CHATML.index(first)] + first
    assert second in CHATML


def test_a_template_that_merges_the_system_prompt(with_template):
    text = "[INST] <<Be brief.>> Two and two? [/INST][[ Four. </s>]][INST] And one? [/INST][[ Five. </s>]]"
    assert marked({"messages": MESSAGES}, with_template("MERGING")) == "<s>" + text


def test_a_template_that_marks_the_answers(with_template):
    text = (
        "<|system|>Be brief.\n<|user|>Two and two?\n<|assistant|>[[Four.</s>]]\n"
        "<|user|>And one?\n<|assistant|>[[Five.</s>]]\n"
    )
    tokenizer = with_template("MARKED")
    assert marked({"messages": MESSAGES}, tokenizer) == text
    assert marked({"messages": MESSAGES}, tokenizer, LAST) == text.replace("[[Four.</s>]]", "Four.</s>")
    both = chat_templates.MARKED.replace("{% else %}", "{% else %}{% generation %}{{ m.role }}{% endgeneration %}")
    tokenizer.chat_template = both
    with pytest.raises(ConfigError, match="line 7: the chat template marks 5 texts in 2 turns of the assistant"):
        encode(at({"messages": MESSAGES}), tokenizer, LONG)
    tokenizer.chat_template = chat_templates.MARKED.replace("{{ m.content }}{{ eos", "{{ eos", 1)
    with pytest.raises(ConfigError, match=r"turn 3 \(role 'assistant'\): the chat template leaves this turn out"):
        encode(at({"messages": MESSAGES}), tokenizer, LONG)


def test_a_thought_before_the_last_answer_only(with_template):
    thought = "<think>\n\n</think>\n\n"
    text = CHATML.replace("[[Five.", f"[[{thought}Five.")
    assert marked({"messages": MESSAGES}, with_template("THINKING")) == text


def test_a_prompt_that_opens_a_thought_is_the_last_answers_prompt(with_template):
    text = "<|user|>Two and two?<|assistant|>[[Four.</s>]]<|user|>And one?<|assistant|><think>\n[[Five.</s>]]"
    assert marked({"messages": MESSAGES[1:]}, with_template("OPENING")) == text
    answer = [{"role": "assistant", "content": "<a> is a tag"}]
    text = "<|user|>Two and two?<|assistant|><think>\n[[<a> is a tag</s>]]"
    assert marked({"messages": MESSAGES[1:2] + answer}, with_template("OPENING")) == text


def test_a_conversation_that_the_assistant_begins(with_template):
    text = "<|im_start|>assistant\n[[Hello.<|im_end|>\n]]" + CHATML[CHATML.index("<|im_start|>user\nTwo") :]
    begun = [{"role": "assistant", "content": "Hello."}, *MESSAGES[1:]]
    assert marked({"messages": begun}, with_template("CHATML")) == text


@pytest.mark.parametrize(
    ("name", "turns", "words"),
    [
        ("STRICT", MESSAGES, r"line 7, turn 1 \(role 'system'\): .* refuses it: A system prompt is not supp"),
        ("MERGING", [*MESSAGES[:3], *MESSAGES[2:]], r"turn 4 \(role 'assistant'\): .* After 2 turns it is not for ass"),
        ("DEAF", MESSAGES, r"line 7, turn 1 \(role 'system'\): the chat template leaves this turn out"),
        ("COUNTING", MESSAGES, r"turn 3 \(role 'assistant'\): .* another way .* has no place; change"),
        ("CHATML", [{"role": "narrator", "content": "x"}], r"turn 1: the role 'narrator' is unknown; allowed: sys"),
        ("CHATML", [MESSAGES[1], {"from": "function_call", "value": "{}"}], "turn 2: the role 'function_call' is unk"),
    ],
)
def test_what_a_template_does_not_take_is_named(with_template, name, turns, words):
    with pytest.raises(ConfigError, match=r"data\.messages: talks\.jsonl, " if "turn 1:" in words else "talks.jsonl, "):
        encode(at({"messages": turns}), with_template(name), LONG)
    with pytest.raises(ConfigError, match=words):
        encode(at({"messages": turns}), with_template(name), LONG)


def test_the_last_answer_needs_less_of_a_template(with_template):
    record, tokenizer = {"messages": MESSAGES[1:]}, with_template("ENDING_ONCE")
    with pytest.raises(ConfigError, match=r"turn 2 \(role 'assistant'\): .* take data\.turns = 'last', or change"):
        encode(at(record), tokenizer, LONG)
    assert marked(record, tokenizer, LAST) == "U: Two and two?\nA: Four.\nU: And one?\nA: [[Five.</s>\n]]"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([{"role": "user"}], r"turn 1 \(role 'user'\) has no content; it has 'role'"),
        ([{"speaker": "Ann", "text": "Hi"}], "turn 1: .*allowed is a table with role and content, or "),
        (["Hi", "Hello"], "turn 1: 'Hi'; allowed is a table"),
        ({"role": "user", "content": "Hi"}, "allowed is a list of turns such as"),
        ("Hi!", "'Hi!'; allowed is a list of turns such as .*, also as JSON"),
        (7, "7; allowed is a list of turns"),
        ([{"role": "user", "content": {"text": ["Four"]}}], "turn 1, content: a table where a text is expected"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "turn 1, content, part 1 is of type 'image_url'"),
        ([{"role": "assistant", "content": "x", "weight": 2}], "turn 1, weight: 2; allowed is 0"),
        ([{"role": "user", "content": "\ud800"}], "turn 1, content: character 1 is half of a surrogate pair"),
    ],
)
def test_what_is_no_conversation_is_named(tokenizer, value, words):
    with pytest.raises(ConfigError, match=r"data\.messages: talks\.jsonl, line 7, column 'messages'") as found:
        encode(at({"messages": value}), tokenizer, LONG)
    assert found.match(words)


def test_an_answer_that_is_no_text_is_named(tokenizer):
    squad = {"question": "Two?", "answers": {"text": ["2"], "answer_start": [0]}}
    config = replace(LONG, instruction="question", response="answers")
    with pytest.raises(ConfigError, match=r"data\.response: talks\.jsonl, line 7, column 'answers': a table"):
        encode(at(squad), tokenizer, config)
    with pytest.raises(ConfigError, match=r"column 'completion': a list where a text is expected"):
        encode(at({"prompt": "a", "completion": ["b", "c"]}), tokenizer, LONG)


def test_without_a_template_turns_have_alpacas_headings(make_tokenizer):
    text = (
        "<s>Be brief.\n\n### Instruction:\nTwo and two?\n\n### Response:\n[[Four.</s>]]\n\n"
        "### Instruction:\nAnd one?\n\n### Response:\n[[Five.</s>]]"
    )
    assert marked({"messages": MESSAGES}, make_tokenizer(start=True, end=True)) == text
    one = encode(at({"messages": MESSAGES[1:3]}), make_tokenizer(), LONG)
    assert one == encode(at({"instruction": "Two and two?", "response": "Four."}), make_tokenizer(), LONG)
    result = {"role": "tool", "content": "4"}
    with pytest.raises(ConfigError, match=r"line 7, turn 3: data\.template = 'alpaca' has no form for the role 'tool'"):
        encode(at({"messages": [*MESSAGES[:2], result, MESSAGES[2]]}), make_tokenizer(), LONG)


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
TALK_WITH_A_CALL = {
    "messages": [
        MESSAGES[1],
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "name": "add", "content": "4"},
        MESSAGES[2],
    ],
    "tools": [{"type": "function", "function": {"name": "add"}}],
}


def test_tools_go_through_a_template_that_has_them(with_template):
    text = (
        "<tools>add </tools>\n<|im_start|>user\nTwo and two?<|im_end|>\n<|im_start|>assistant\n"
        '[[<call>add{"a": 2}</call><|im_end|>\n]]<|im_start|>tool\n4<|im_end|>\n'
        "<|im_start|>assistant\n[[Four.<|im_end|>\n]]"
    )
    assert marked(TALK_WITH_A_CALL, with_template("CALLING")) == text
    with pytest.raises(ConfigError, match=r"turn 2 \(role 'assistant'\): the chat template leaves its tool_calls out"):
        encode(at(TALK_WITH_A_CALL), with_template("CHATML"), LONG)
    with pytest.raises(ConfigError, match="line 7: the chat template leaves the column 'tools' out"):
        encode(at({"messages": MESSAGES, "tools": TALK_WITH_A_CALL["tools"]}), with_template("CHATML"), LONG)
    with pytest.raises(ConfigError, match=r"line 7, column 'tools': .* allowed is a list of JSON schemas"):
        encode(at({"messages": MESSAGES, "tools": {"add": 1}}), with_template("CALLING"), LONG)


def test_the_date_in_a_template_does_not_change(with_template):
    assert marked({"messages": MESSAGES}, with_template("DATED")) == "Today: 26 Jul 2024\n" + CHATML


def test_an_instruction_keeps_alpaca_unless_the_recipe_says_chat(with_template):
    tokenizer, pair = with_template("CHATML"), {"prompt": "Two and two?", "completion": "Four."}
    assert marked(pair, tokenizer).startswith("### Instruction:\nTwo and two?")
    text = "<|im_start|>user\nTwo and two?<|im_end|>\n<|im_start|>assistant\n[[Four.<|im_end|>\n]]"
    assert marked(pair, tokenizer, replace(LONG, template="chat")) == text
    data = Dataset({"a": [at(pair)], "b": [at({"messages": MESSAGES})]}, {}, {})
    words = "instruction and response in prompt and completion, with Alpaca's headings (a); "
    assert forms(data, tokenizer, LONG) == words + "conversations in messages, with the model's chat template (b)"


def test_what_is_cut_off_or_empty_is_counted_with_the_reason(with_template):
    tokenizer = with_template("CHATML")
    talks = [MESSAGES, MESSAGES[:2], [], [MESSAGES[1], {"role": "assistant", "content": ""}], None]
    records = [at({"messages": talk}) for talk in talks]
    short = replace(LONG, max_length=150)
    assert len(rows_of(records[:1], tokenizer, short)[0].tokens) > 150
    found = encode_all(Dataset({"a": records}, {}, {}), tokenizer, short)
    (example,) = found.clients["a"]
    assert len(example.tokens) == 150
    assert skipped_words(found.skipped) == "records without a response: a 4"
    found = encode_all(Dataset({}, {}, {"t": [*records[:1], at({"messages": MESSAGES[1:3]})]}), tokenizer, short)
    assert len(found.tests["t"]) == 1
    long = "records longer than data.max_length = 150 before the first token of a response: test/t 1"
    assert skipped_words(found.skipped) == long
    with pytest.raises(ConfigError, match=r"none of its 4 records has a response \(columns 'messages'\) with"):
        encode_all(Dataset({"a": records[1:]}, {}, {}), tokenizer, short)


def test_a_recipe_with_a_conversation_column_is_no_plain_text():
    with pytest.raises(ConfigError, match=r"data\.messages = 'talk': allowed with data\.task = text and"):
        from_dict({"data": {"messages": "talk", "template": "plain"}})


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=4),
    st.sampled_from(["CHATML", "MERGING", "MARKED", "THINKING", "OPENING"]),
)
def test_any_answer_is_trained_on_and_nothing_that_was_asked(kept, pairs, name):
    tokenizer = kept(name)
    turns = [{"role": r, "content": t} for pair in pairs for r, t in zip(("user", "assistant"), pair, strict=True)]
    try:
        (row,) = rows_of([at({"messages": turns})], tokenizer, replace(LONG, template="chat"))
    except ConfigError:
        if all(text.strip() for pair in pairs for text in pair):
            raise
        return
    runs, last = [], False
    for token, trained in zip(row.tokens, row.trained, strict=True):
        if trained and not last:
            runs.append([])
        if trained:
            runs[-1].append(token)
        last = trained
    assert len(runs) == len(pairs)
    for run, (_, answer) in zip(runs, pairs, strict=True):
        text = tokenizer.decode(run).lstrip().removeprefix("<think>\n\n</think>\n\n")
        assert text.lstrip().startswith(answer.strip())


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "text", "type", "tool_calls"]), inner),
    max_leaves=12,
)
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "human"]) | ANYTHING},
    optional={"content": st.text() | ANYTHING, "weight": ANYTHING, "tool_calls": ANYTHING, "name": ANYTHING},
)
COLUMNS = ("messages", "conversations", "prompt", "completion", "instruction", "response", "input", "system", "tools")
RECORDS = st.dictionaries(st.sampled_from(COLUMNS), st.text() | ANYTHING | st.lists(TURN, max_size=4), max_size=4)


@settings(deadline=None, max_examples=150)
@given(RECORDS, st.sampled_from([None, "CHATML", "MERGING", "STRICT", "MARKED", "THINKING", "OPENING", "CALLING"]))
def test_any_record_is_an_example_or_a_named_error(kept, record, name):
    tokenizer = kept(name)
    for template in ("auto", "alpaca", "plain"):
        try:
            for example in encode(at(record), tokenizer, DataConfig(template=template)):
                assert 2 <= len(example.tokens) == len(example.labels) <= 128
                assert any(label != -100 for label in example.labels[1:])
        except ConfigError as error:
            if "talks.jsonl, line 7" not in str(error):
                raise


def test_many_are_encoded_as_one_is(with_template):
    tokenizer = with_template("CHATML")
    records = [at({"messages": MESSAGES}), at({"prompt": "a", "completion": "b"}), at({"messages": []})]
    assert encode_many(records, tokenizer, LONG) == [encode(record, tokenizer, LONG) for record in records]
