"""Declared limits: with these settings a method equals another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thinwire.adapters import EXTRA


@dataclass(frozen=True)
class Limit:
    """`name` with `settings` equals `equals` with `other`; settings are a method's fields and those of [values]."""

    name: str
    settings: Mapping[str, Any]
    equals: str
    other: Mapping[str, Any]
    tolerance: float
    clients: int = 3
    rounds: int = 4
    products: bool = False
    """Whether the products `b @ a`, merged ones included, are equal, not the factors."""
    parts: tuple[str, ...] = ()
    """Parts that are compared; empty: all."""


EXACT = {"precision": "float32"}
DENSE = {"down_density": 1.0, "up_density": 1.0}

LIMITS = (
    Limit("fedit", EXACT, "local", {}, 1e-6, clients=1),
    Limit("ffa-lora", EXACT, "local", {"freeze_a": True}, 1e-6, clients=1),
    Limit("rolora", {"turn": 1000}, "ffa-lora", {}, 0.0),
    Limit("fedex-lora", EXACT, "fedit", EXACT, 1e-6, clients=1),
    Limit("fed-dare", {"rate": 0.0}, "fedit", {}, 0.0),
    Limit("fedsrd", {}, "fedsrd-e", {}, 1e-5, clients=1),
    Limit("fedsrd-e", {}, "fedsrd", {}, 1e-5, clients=1),
    Limit("flasc", {**DENSE, **EXACT}, "fedit", EXACT, 1e-6),
    Limit("flora", {"warm_start": True, **EXACT}, "local", {}, 1e-5, clients=1, rounds=1, products=True),
    Limit("hetlora", {"weighting": "plain", **EXACT}, "fedit", EXACT, 1e-6),
    Limit("flexlora", EXACT, "local", {}, 1e-5, clients=1, rounds=1, products=True),
    Limit("fdlora", {"outer_rate": 1.0, "outer_momentum": 0.0}, "fedit", {}, 0.0),
    Limit("fedsa-lora", EXACT, "fedit", EXACT, 1e-6, rounds=1, parts=("a", EXTRA)),
    Limit("flocora", {"bits_up": 0, "bits_down": 0}, "fedit", EXACT, 0.0),
    Limit("fedsrd-official", {}, "fedsrd-e-official", {}, 1e-5, clients=1),
    Limit("fedsrd-e-official", {}, "fedsrd-official", {}, 1e-5, clients=1),
    Limit("local", {}, "centralised", {}, 0.0, clients=1),
    Limit("centralised", {}, "local", {}, 0.0, clients=1),
)
"""At least one of every method."""
