"""What a reply may say besides its payload: a closed list of names, with numbers, hashes and fixed words as values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from thinwire import __version__
from thinwire.evaluation import Scores
from thinwire.federation.problems import SiteProblem
from thinwire.federation.settings import SiteLimits
from thinwire.privacy.ledger import PROTECTED

Check = Callable[[Any], bool]
HASH = re.compile(r"[0-9a-f]{64}|")
METRIC = re.compile(r"[A-Za-z0-9_./-]{1,64}")
"""A name of an app's own metric."""


def whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def number(value: Any) -> bool:
    return value is None or isinstance(value, float) or whole(value)


def one_of(*words: str) -> Check:
    return lambda value: value in words


def table(names: Mapping[str, Check]) -> Check:
    """A table of these names."""
    return lambda value: isinstance(value, Mapping) and all(k in names and names[k](v) for k, v in value.items())


def hashed(value: Any) -> bool:
    return isinstance(value, str) and HASH.fullmatch(value) is not None


def metrics(value: Any) -> bool:
    """An app's own metrics: names that are plain words, and numbers."""
    return isinstance(value, Mapping) and all(METRIC.fullmatch(key) and number(each) for key, each in value.items())


COSTS: dict[str, Check] = {
    **dict.fromkeys(("epsilon", "delta", "noise_multiplier"), number),
    "protects": one_of(*PROTECTED.values()),
}
FACTS: dict[str, Check] = {
    **dict.fromkeys(("base", "tokenizer", "template", "start", "method"), hashed),
    **dict.fromkeys(("wire", "examples", "tokens", "late", "discarded"), whole),
    **dict.fromkeys(("loss", "density", "seconds"), number),
    "thinwire": one_of(__version__),
    "limits": table({spec.name: number for spec in fields(SiteLimits)}),
    "privacy": table(COSTS),
    "metrics": metrics,
}
"""Name -> what it may hold, for every task but those that score."""

SCORES = table({spec.name: number for spec in fields(Scores)})
SCORED = ("evaluate", "test", "finish")


def check_outward(task: str, site: str, facts: Mapping[str, Any]) -> None:
    """Raises: SiteProblem naming a fact that must not leave the site; its value is not in the text.

    Scores are by domain: the site's own name, or 1, 2, ... where it has several.
    """
    for name, value in facts.items():
        scored = task in SCORED and (name == site or name.isdecimal()) and SCORES(value)
        if not scored and not (name in FACTS and FACTS[name](value)):
            raise SiteProblem("defect", f"{task}: the fact {name!r} may not leave a site")
