"""Plain declarative lines that teach a base the skills of the four domains, in no instruction format."""

import random

from thinwire.data.vocabulary import ARGUMENTS, FUNCTIONS, GOODS, NAMES, OPERATIONS, THINGS, TREATMENTS

_ASIDES = (
    ("It was", "That was", "This happened", "They met", "Nobody spoke", "The talk began"),
    ("early", "late", "long ago", "on Monday", "on Friday", "in the morning", "before noon", "at night", "last year"),
    ("in town", "at home", "by the river", "near the station", "at school", "in the garden", "on the road", "there"),
)


def _aside(rng: random.Random) -> str:
    """A sentence between situation and result, or none, so that results must be looked up and not sit at an offset."""
    draw = rng.random()
    if draw < 0.4:
        return " "
    parts = [rng.choice(column) for column in _ASIDES]
    return f" {' '.join(parts[: rng.randint(2, 3)])}. " if draw < 0.8 else f" {rng.choice(NAMES)} heard of it. "


def _told(rng: random.Random, situations: tuple[str, ...], results: tuple[str, ...]) -> str:
    return rng.choice(situations) + _aside(rng) + rng.choice(results)


def _code(rng: random.Random) -> str:
    wordings, expression = rng.choice(OPERATIONS)
    x, k, f = rng.choice(ARGUMENTS), rng.randint(2, 9), rng.choice(FUNCTIONS)
    if rng.random() < 0.3:
        f = f"{f}_{rng.choice(FUNCTIONS)}"
    words, body = rng.choice(wordings).format(x=x, k=k), expression.format(x=x, k=k)
    if rng.random() < 0.3:
        return rng.choice((f"In Python, {words} is {body}.", f"{f} = lambda {x}: {body}  # {words}"))
    situations = (
        f"The function {f} returns {words}.",
        f"The helper named {f} computes {words}.",
        f"{f} of {x} gives {words}.",
        f"What {f} stands for is {words}.",
        f"They call it {f} and it is used for {words}.",
        f"For {words} there is {f}.",
    )
    results = (
        f"{f} = lambda {x}: {body}",
        f"So {f}({x}) is {body}.",
        f"In code {f}({x}) returns {body}.",
        f"The body of {f} in {x} is {body}.",
    )
    return _told(rng, situations, results)


def _medical(rng: random.Random) -> str:
    (c, d), n = rng.choice(TREATMENTS), rng.choice(NAMES)
    if rng.random() < 0.4:
        upper_c, upper_d = c[0].upper() + c[1:], d[0].upper() + d[1:]
        facts = (
            f"{upper_c} is treated with {d}.",
            f"The usual drug for {c} is {d}.",
            f"{upper_d} is used against {c}.",
        )
        return rng.choice((*facts, f"For {c}, doctors use {d}."))
    situations = (
        f"{n} has {c}.",
        f"{n} suffered from {c}.",
        f"{n} came to the doctor with {c}.",
        f"The doctor saw {c} in {n}.",
        f"There is help for {c}.",
        f"The diagnosis was {c}.",
    )
    results = (
        f"The treatment is {d}.",
        f"The doctor chose {d}.",
        f"{n} was given {d}.",
        f"A dose of {d} helps.",
        f"They ordered {d}.",
    )
    return _told(rng, situations, results)


def _profit(rng: random.Random, n: str) -> str:
    item, a, b = rng.choice(GOODS), rng.randint(5, 30), rng.randint(2, 20)
    situations = (
        f"{n} bought a {item} for {a} dollars and sold it for {a + b} dollars.",
        f"{n} paid {a} dollars for a {item} and was paid {a + b} dollars.",
        f"{n} sold a {item} for {a + b} dollars that had cost {a} dollars.",
        f"A {item} cost {a} dollars and went for {a + b} dollars.",
    )
    results = (
        f"The gain is {b} dollars.",
        f"This makes a profit of {b} dollars.",
        f"{n} gained {b} dollars.",
        f"The profit is {a + b} - {a} = {b}.",
    )
    return _told(rng, situations, results)


def _interest(rng: random.Random, n: str, p: int, r: int) -> str:
    situations = (
        f"{n} has {p}00 dollars in a bank at {r} percent a year.",
        f"{n} lent {p}00 dollars at {r} percent.",
        f"There were {p}00 dollars at {r} percent for one year.",
    )
    results = (
        f"The interest is {p * r} dollars.",
        f"A year earns {p * r} dollars.",
        f"{n} got {p * r} dollars of interest.",
    )
    return _told(rng, situations, results)


def _cost(rng: random.Random, n: str, p: int, r: int) -> str:
    item = rng.choice(GOODS)
    situations = (
        f"{n} took {p} of the {item}s at {r} dollars each.",
        f"{n} ordered {p} of the {item}s and each was {r} dollars.",
        f"At {r} dollars for one {item}, {n} wanted {p}.",
        f"A {item} costs {r} dollars and {n} pays for {p}.",
    )
    results = (f"The bill is {p * r} dollars.", f"{n} paid {p * r} dollars.", f"They cost {p * r} dollars in all.")
    return _told(rng, situations, results)


def _finance(rng: random.Random) -> str:
    n, kind, p, r = rng.choice(NAMES), rng.randrange(4), rng.randint(2, 12), rng.randint(2, 12)
    return _profit(rng, n) if kind > 1 else _cost(rng, n, p, r) if kind else _interest(rng, n, p, r)


def _situations(n: str, t: str, sign: str, a: int, b: int) -> tuple[str, ...]:
    if sign == "+":
        return (
            f"{n} has {a} {t} and {b} more.",
            f"{n} put {a} {t} next to {b} {t}.",
            f"{n} had {a} {t} at home and {b} at school.",
            f"{n} saw {a} {t} and then {b} on the road.",
        )
    if sign == "-":
        return (
            f"{n} had {a} {t} and dropped {b} of them.",
            f"{n} took {b} of {a} {t} away.",
            f"From {a} {t} {n} lost {b}.",
            f"{n} sold {b} of the {a} {t}.",
        )
    return (
        f"{n} made {a} heaps with {b} {t} in each.",
        f"There were {a} rows of {b} {t} for {n}.",
        f"{n} has {a} boxes with {b} {t} each.",
        f"{n} saw {a} bags of {b} {t}.",
    )


def _math(rng: random.Random) -> str:
    sign = rng.choice("+-*")
    a, b = (rng.randint(2, 12), rng.randint(2, 12)) if sign == "*" else (rng.randint(3, 30), rng.randint(2, 20))
    a, c = {"+": (a, a + b), "-": (a + b, a), "*": (a, a * b)}[sign]
    word = {"+": "plus", "-": "minus", "*": "times"}[sign]
    equation, n, thing = f"{a} {sign} {b} = {c}", rng.choice(NAMES), rng.choice(THINGS)
    if rng.random() < 0.4:
        return rng.choice((equation, equation, f"{a} {word} {b} is {c}."))
    results = (equation, f"So {equation}.", f"That is {equation} {thing}.", f"{n} counted {equation} {thing}.")
    return _told(rng, _situations(n, thing, sign, a, b), results)


def plain(count: int, seed: int) -> list[str]:
    """Declarative lines with the knowledge of the four domains and without any instruction format, to pretrain on."""
    rng = random.Random(f"{seed}/plain")
    makers = (_code, _medical, _finance, _math)
    return [rng.choice(makers)(rng) for _ in range(count)]
