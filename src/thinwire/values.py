"""How values travel, with every method: in a dtype, or as codes of a few bits. A recipe's section [values]."""

from __future__ import annotations

from dataclasses import dataclass

from thinwire.settings import setting

DTYPES = ("float32", "bfloat16", "float16")
PER = ("tensor", "row", "channel")


@dataclass(frozen=True)
class ValuesConfig:
    """How values travel, after a method's own steps."""

    precision: str = setting("bfloat16", "dtype in which values travel that are not quantised", choices=DTYPES)
    bits_up: int = setting(0, "upload: values as codes of so many bits; 0: not quantised", low=0, high=8)
    bits_down: int = setting(0, "what the server sends, likewise", low=0, high=8)
    scale_per: str = setting("tensor", "quantised: what shares a scale", choices=PER)
    symmetric: bool = setting(False, "quantised: no zero point")
    stochastic: bool = setting(False, "quantised: round up with the probability of the fraction")
