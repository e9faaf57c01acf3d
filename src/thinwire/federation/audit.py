"""What left a site: an append-only log, a line of JSON each, written before the bytes go out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from thinwire.federation.messages import Reply, header
from thinwire.storage.files import append_line

FILE = "audit.jsonl"


def record(folder: Path, federation: str, reply: Reply, spent: Mapping[str, Any]) -> None:
    """Append a line and make it durable. spent: privacy's cost by now. Raises: OSError, and then nothing may leave."""
    line: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "federation": federation,
        "run": reply.run,
        "task": reply.task,
        "round": reply.round + 1,
        "problem": reply.problem,
        "facts": dict(reply.facts),
        "privacy": dict(spent),
        "header_bytes": len(header(reply)),
        "bytes": sum(map(len, reply.blobs)),
        "sha256": [hashlib.sha256(blob).hexdigest() for blob in reply.blobs],
    }
    append_line(folder / FILE, json.dumps(line))
