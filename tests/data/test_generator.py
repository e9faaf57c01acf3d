"""The four-domain generator: determinism, distinct examples, disjoint splits, true answers, plain lines, errors."""

import re
import subprocess
import sys

import pytest

from scripts.plain import plain
from thinwire.data import generator
from thinwire.data.vocabulary import TREATMENTS


def instructions(domain: str, split: str, count: int, seed: int) -> set[str]:
    return {example["instruction"] for example in generator.examples(domain, split, count, seed)}


@pytest.mark.parametrize("split", generator.SPLITS)
@pytest.mark.parametrize("domain", generator.DOMAINS)
def test_same_seed_gives_the_same_distinct_examples_and_another_seed_others(domain, split):
    first = generator.examples(domain, split, 300, 4)
    assert first == generator.examples(domain, split, 300, 4)
    assert first != generator.examples(domain, split, 300, 5)
    assert len({example["instruction"] for example in first}) == 300
    assert all(set(example) == {"instruction", "response"} for example in first)


@pytest.mark.parametrize("domain", generator.DOMAINS)
def test_no_instruction_is_in_two_splits(domain):
    found = {split: set() for split in generator.SPLITS}
    for seed in range(3):
        for split in generator.SPLITS:
            found[split] |= instructions(domain, split, 600, seed)
    assert not found["train"] & found["test"]
    assert not found["train"] & found["validation"]
    assert not found["validation"] & found["test"]


@pytest.mark.parametrize("domain", ["medical"])
def test_all_examples_of_all_splits_together_are_distinct(domain):
    counts = {split: exists(domain, split) for split in generator.SPLITS}
    everything = set().union(*(instructions(domain, split, count, 1) for split, count in counts.items()))
    assert len(everything) == sum(counts.values())


def exists(domain: str, split: str) -> int:
    with pytest.raises(ValueError, match="exist") as error:
        generator.examples(domain, split, 10**9, 0)
    return int(re.search(r"0 to (\d+)", str(error.value)).group(1))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("law", "train", 1, 0), ("domain", "'law'", "code, medical, finance, math")),
        (("math", "dev", 1, 0), ("split", "'dev'", "train, validation, test")),
        (("math", "test", -1, 0), ("count", "-1", "allowed")),
        (("math", "test", 1.5, 0), ("count", "1.5", "allowed")),
        (("medical", "test", 10**6, 0), ("count", "1000000", "exist")),
    ],
)
def test_bad_arguments_name_field_value_and_what_is_allowed(arguments, words):
    with pytest.raises(ValueError, match=words[0]) as error:
        generator.examples(*arguments)
    assert all(word in str(error.value) for word in words)


def test_math_answers_are_true_and_use_the_numbers_of_the_question():
    for example in generator.examples("math", "test", 400, 2):
        a, sign, b, c, last = re.fullmatch(r"(\d+) ([-+*]) (\d+) = (\d+) #### (\d+)", example["response"]).groups()
        a, b, c = int(a), int(b), int(c)
        assert c == int(last) == {"+": a + b, "-": a - b, "*": a * b}[sign]
        assert {a, b} == set(map(int, re.findall(r"\d+", example["instruction"])))


def test_finance_answers_are_true():
    for example in generator.examples("finance", "test", 400, 2):
        kind, amount = re.fullmatch(r"(\w+): (\d+) dollars", example["response"]).groups()
        a, b = map(int, re.findall(r"\d+", example["instruction"]))
        assert int(amount) == {"Profit": a * b, "Interest": a * b // 100, "Bill": a * b}[kind]


def test_medical_answers_are_the_usual_drugs():
    drugs = dict(TREATMENTS)
    assert len(drugs) == len(TREATMENTS) == 96
    for example in generator.examples("medical", "test", 400, 2):
        named = [condition for condition in drugs if condition in example["instruction"]]
        assert example["response"] in {f"Prescribe {drugs[condition]}." for condition in named}


def test_medical_conditions_of_one_split_are_in_no_other():
    asked = {split: {e["response"] for e in generator.examples("medical", split, 500, 2)} for split in generator.SPLITS}
    assert not asked["train"] & asked["test"]
    assert not asked["train"] & asked["validation"]
    assert len(asked["test"]) > 15


def test_code_answers_run_and_use_the_names_of_the_question():
    for example in generator.examples("code", "test", 400, 2):
        name, argument = re.fullmatch(r"def (\w+)\((\w)\): return .+", example["response"]).groups()
        scope = {}
        exec(example["response"], scope)
        assert isinstance(scope[name](5), int)
        assert f" {name}" in example["instruction"]
        assert re.search(rf"\b{argument}\b", example["instruction"])


def test_plain_lines_are_deterministic_and_carry_no_instruction_format():
    lines = plain(4000, 3)
    assert lines == plain(4000, 3) != plain(4000, 4)
    assert len(lines) == 4000
    text = "\n".join(lines)
    marks = ("?", "###", "Prescribe", "Profit:", "Interest:", "Bill:", "def ", "Write a", "Instruction", "Response")
    assert not [mark for mark in marks if mark in text]


def test_plain_lines_hold_every_treatment():
    text = "\n".join(plain(20_000, 0))
    assert all(f"or {condition}" in text and drug in text for condition, drug in TREATMENTS)


def test_the_global_random_state_is_left_alone_and_torch_is_not_imported():
    code = (
        "import random, sys; s = random.getstate(); from thinwire.data import generator as g; "
        "g.examples('code', 'test', 9, 0); assert random.getstate() == s and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
