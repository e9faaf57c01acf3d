"""What went wrong at a site: a code leaves it (`messages.PROBLEMS`), the rest stays in the site's own log.

An error's text may quote a record, so none ever leaves a site.
"""

from __future__ import annotations

import contextlib
import json
import logging
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from thinwire.federation.messages import BUDGET, PROBLEMS_FILE
from thinwire.settings import shown
from thinwire.storage.files import append_line

LOG = logging.getLogger("thinwire.site")

CODES = {
    "BudgetSpent": BUDGET,
    "ConfigError": "recipe",
    "WireError": "request",
    "MessageError": "request",
    "StoreError": "state",
    "OSError": "disk",
    "ValueError": "training",
}
"""The code of an error that no `during` named, by the name of its class: the rooms of some need torch."""


class SiteProblem(Exception):
    """An error at a site, with its code; the text is for the site alone."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@contextlib.contextmanager
def during(code: str) -> Iterator[None]:
    """Bad settings, records and files within the block become a problem of this code."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise SiteProblem(code, str(error)) from error


def code_of(error: Exception) -> str:
    """The one word that may leave the site."""
    if isinstance(error, SiteProblem):
        return error.code
    return next((CODES[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in CODES), "defect")


def keep(folder: Path, run: str, task: str, round_: int, error: Exception) -> str:
    """Write an error to the site's own log, a line of JSON with mode 0600, and to the process's; its code."""
    code = code_of(error)
    LOG.error("round %d, %s: %s: %s", round_ + 1, task, code, shown(str(error)))
    text = str(error) or type(error).__name__
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": run,
        "task": task,
        "round": round_ + 1,
        "problem": code,
        "text": text,
        **({"traceback": traceback.format_exception(error)} if code in ("defect", "app") else {}),
    }
    with contextlib.suppress(OSError):  # on a full disk the code is all there is, and the audit log decides
        append_line(folder / PROBLEMS_FILE, json.dumps(line))
    return code
