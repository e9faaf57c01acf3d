"""Deterministic instruction data of four domains: code, medical, finance, math."""

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from thinwire.data.vocabulary import ARGUMENTS, FUNCTIONS, GOODS, NAMES, OPERATIONS, THINGS, TREATMENTS

DOMAINS = ("code", "medical", "finance", "math")
SPLITS = ("train", "validation", "test")
_Rule = Callable[[int, int], int]
_Fact = Mapping[str, object]


@dataclass(frozen=True)
class _Family:
    """Examples of one kind: every template with every fact of the split and every fill (all fields are in each)."""

    templates: tuple[str, ...]
    response: str
    facts: tuple[_Fact, ...]
    fills: tuple[dict[str, str], ...] = ({},)

    def __len__(self) -> int:
        return len(self.templates) * len(self.facts) * len(self.fills)

    def __getitem__(self, index: int) -> dict[str, str]:
        rest, fill = divmod(index, len(self.fills))
        template, fact = divmod(rest, len(self.facts))
        values = {**self.facts[fact], **self.fills[fill]}
        instruction = self.templates[template].format_map(values)
        return {"instruction": instruction, "response": self.response.format_map(values)}


def _split_of(*fact: object) -> str:
    bucket = hashlib.blake2b("/".join(map(str, fact)).encode(), digest_size=8).digest()[-1] % 10
    return "test" if bucket < 2 else "validation" if bucket == 2 else "train"


def _product(**columns: tuple[str, ...]) -> tuple[dict[str, str], ...]:
    return tuple(dict(zip(columns, row, strict=True)) for row in itertools.product(*columns.values()))


def _code(split: str) -> Iterator[_Family]:
    templates = (
        "Write a function {f} that returns {words}.",
        "Define {f} so that it gives {words}.",
        "Implement {f} of {x}, returning {words}.",
        "I need a helper named {f} that computes {words}.",
        "Create a Python function called {f} for {words}.",
    )
    facts = []
    for f, x, (wordings, expression), k in itertools.product(FUNCTIONS, ARGUMENTS, OPERATIONS, range(2, 10)):
        if _split_of("code", f, x, expression, k) == split:
            body = expression.format(x=x, k=k)
            facts += [{"f": f, "x": x, "words": words.format(x=x, k=k), "body": body} for words in wordings]
    yield _Family(templates, "def {f}({x}): return {body}", tuple(facts))


def _medical(split: str) -> Iterator[_Family]:
    templates = (
        "{name} has {condition}. What should be given?",
        "Which drug helps {name} with {condition}?",
        "{name} came in with {condition}. Choose a treatment.",
        "Treat {condition} in a patient called {name}.",
        "The diagnosis for {name} is {condition}. What comes next?",
        "What would a doctor order for {name}, who suffers from {condition}?",
    )
    facts = [{"condition": c, "drug": d} for c, d in TREATMENTS if _split_of("medical", c) == split]
    yield _Family(templates, "Prescribe {drug}.", tuple(facts), _product(name=NAMES))


def _left(a: int, b: int) -> int:
    return a


def _numbers(
    split: str, kind: str, left: range, right: range, result: _Rule, first: _Rule = _left
) -> tuple[_Fact, ...]:
    pairs = [(first(a, b), b) for a in left for b in right if _split_of(kind, a, b) == split]
    return tuple({"a": a, "b": b, "c": result(a, b)} for a, b in pairs)


def _finance(split: str) -> Iterator[_Family]:
    profit = (
        "{name} sells {a} {item}s and gains {b} dollars on each. What is the profit?",
        "Each {item} brings {name} {b} dollars more than it cost. What do {a} of them gain?",
        "{name} makes {b} dollars on every {item}. Find the profit on {a} of them.",
    )
    interest = (
        "{name} puts {a}00 dollars in a bank at {b} percent a year. What is the interest after one year?",
        "What does {name} earn in a year on {a}00 dollars at {b} percent?",
        "{name} lends {a}00 dollars for one year at {b} percent. Find the interest.",
    )
    cost = (
        "{name} orders {a} of the {item}s at {b} dollars each. What is the bill?",
        "One {item} costs {b} dollars. What must {name} pay for {a}?",
    )
    people, goods = _product(name=NAMES), _product(name=NAMES, item=GOODS)
    multiply = range(3, 13), range(4, 13), lambda a, b: a * b
    yield _Family(profit, "Profit: {c} dollars", _numbers(split, "profit", *multiply), goods)
    yield _Family(interest, "Interest: {c} dollars", _numbers(split, "interest", *multiply), people)
    yield _Family(cost, "Bill: {c} dollars", _numbers(split, "cost", *multiply), goods)


def _math(split: str) -> Iterator[_Family]:
    addition = (
        "{name} has {a} {thing} and gets {b} more. How many {thing} are there now?",
        "{name} found {a} {thing} on Monday and {b} on Tuesday. How many {thing} is that?",
    )
    subtraction = (
        "{name} had {a} {thing} and lost {b} of them. How many {thing} are left?",
        "{name} gives away {b} of {a} {thing}. How many {thing} remain?",
    )
    product = (
        "{name} fills {a} boxes with {b} {thing} each. How many {thing} are in the boxes?",
        "There are {a} bags with {b} {thing} in each for {name}. How many {thing} is that?",
    )
    fills = _product(name=NAMES, thing=THINGS)
    small = range(10, 31), range(10, 21, 10)
    yield _Family(addition, "{a} + {b} = {c} #### {c}", _numbers(split, "+", *small, lambda a, b: a + b), fills)
    less = _numbers(split, "-", *small, lambda a, b: a - b, first=lambda a, b: a + b)
    yield _Family(subtraction, "{a} - {b} = {c} #### {c}", less, fills)
    times = _numbers(split, "*", range(2, 13), range(2, 13), lambda a, b: a * b)
    yield _Family(product, "{a} * {b} = {c} #### {c}", times, fills)


@lru_cache(maxsize=12)
def _families(domain: str, split: str) -> tuple[_Family, ...]:
    return tuple({"code": _code, "medical": _medical, "finance": _finance, "math": _math}[domain](split))


def examples(domain: str, split: str, count: int, seed: int) -> list[dict[str, str]]:
    """Distinct {"instruction", "response"} examples; no instruction is in two splits. ValueError on a bad argument."""
    for field, value, allowed in (("domain", domain, DOMAINS), ("split", split, SPLITS)):
        if value not in allowed:
            raise ValueError(f"{field} = {value!r}: allowed are {', '.join(allowed)}")
    families = _families(domain, split)
    exist = sum(map(len, families))
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= exist:
        raise ValueError(f"count = {count!r}: allowed are 0 to {exist}, the {domain} {split} examples that exist")
    rng = random.Random(f"{seed}/{domain}/{split}")
    pools = [(family, rng.sample(range(len(family)), min(count, len(family)))) for family in families]
    chosen: list[dict[str, str]] = []
    while len(chosen) < count:
        family, indices = rng.choice([pool for pool in pools if pool[1]])
        chosen.append(family[indices.pop()])
    return chosen
