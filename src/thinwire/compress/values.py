"""The last lossy steps of all that travels: how values are written."""

from __future__ import annotations

from thinwire.compress import Step
from thinwire.compress.cast import Cast
from thinwire.compress.quantise import Quantise
from thinwire.values import ValuesConfig


def steps_up(values: ValuesConfig) -> tuple[Step, ...]:
    """The last steps of every upload."""
    return _steps(values, values.bits_up)


def steps_down(values: ValuesConfig) -> tuple[Step, ...]:
    """The last steps of what the server sends."""
    return _steps(values, values.bits_down)


def _steps(values: ValuesConfig, bits: int) -> tuple[Step, ...]:
    cast = Cast(values.precision)
    return (Quantise(bits, values.scale_per, values.symmetric, values.stochastic), cast) if bits else (cast,)
