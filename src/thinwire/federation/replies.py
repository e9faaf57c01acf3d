"""What comes back from a site, checked before it is used: the server trusts no reply."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from thinwire.evaluation import Scores
from thinwire.federation.messages import MessageError, Reply, Request
from thinwire.federation.settings import SiteLimits
from thinwire.settings import build


def fault(reply: Reply, request: Request, site: str) -> str:
    """Why a reply cannot be used, in words; empty if it can."""
    if reply.problem:
        return reply.trouble
    for what, mine, theirs in (
        ("site", site, reply.site),
        ("run", request.run, reply.run),
        ("task", request.task, reply.task),
        ("round", request.round + 1, reply.round + 1),
    ):
        if mine != theirs:
            return f"its reply is of {what} {theirs!r}, asked was {mine!r}"
    return "" if request.task != "round" or reply.blob else "it sent no upload"


def scores_of(facts: Mapping[str, Any]) -> dict[str, Scores]:
    """Scores by domain from an evaluation's facts. Raises: MessageError."""
    try:
        scores = {name: Scores(**values) for name, values in facts.items()}
    except TypeError as error:
        raise MessageError(f"no scores: {error}") from None
    for name, score in scores.items():
        for figure in ("loss", "accuracy", "exact", "examples"):
            if math.isnan(number(vars(score), figure)):
                raise MessageError(f"no scores: {figure} of {name} is {getattr(score, figure)!r}")
    return scores


def limits_of(facts: Mapping[str, Any]) -> SiteLimits:
    """A site's limits from its answer to a hello. Raises: MessageError, ConfigError."""
    values = facts.get("limits", {})
    if not isinstance(values, dict):
        raise MessageError(f"limits = {values!r}: allowed is a table")
    return build(SiteLimits, {name: value for name, value in values.items() if value is not None}, "limits")


def number(facts: Mapping[str, Any], name: str) -> float:
    """A finite number of a reply's facts; nan for whatever else a site may send."""
    value = facts.get(name)
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if good and value is not None else math.nan
