"""The lines of metrics.jsonl."""

from __future__ import annotations

import math
from typing import Any

from thinwire.engine import Answer

Line = dict[str, Any]
"""A client's part in a round, an evaluation, or what privacy has cost."""


def line(client: str, number: int, down: int, answer: Answer | None, refused: str | None) -> Line:
    """What happened to one client in round `number`, in which it was sent `down` bytes; answer: None if it gave none.

    `number` counts from 0, the line from 1, as in all that a person reads.
    """
    given = answer or Answer()
    status = f"refused: {refused}" if refused is not None else "dropped out" if answer is None else "counted"
    return {
        "round": number + 1,
        "client": client,
        "loss": given.loss if math.isfinite(given.loss) else None,
        "bytes_up": len(given.blob),
        "bytes_down": down,
        "seconds": given.seconds,
        "density": given.density,
        "status": status,
    }
