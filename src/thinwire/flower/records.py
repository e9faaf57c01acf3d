"""Requests and replies in Flower's records: the header as one text, packed payloads as arrays of bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from thinwire.federation import messages
from thinwire.federation.messages import MessageError, Reply, Request
from thinwire.federation.problems import keep

HEADER, BLOBS = "thinwire.header", "thinwire.blobs"
STYPE = "thinwire.v1"


def content(message: Request | Reply) -> RecordDict:
    """A message as Flower carries it."""
    arrays = {
        f"{number:06d}": Array(dtype="uint8", shape=(len(blob),), stype=STYPE, data=blob)
        for number, blob in enumerate(message.blobs)
    }
    return RecordDict({HEADER: ConfigRecord({"json": messages.header(message)}), BLOBS: ArrayRecord(arrays)})


def request(records: RecordDict) -> Request:
    """The request in a Flower message. Raises: MessageError."""
    return messages.request(*_parts(records))


def reply(records: RecordDict) -> Reply:
    """The reply in a Flower message. Raises: MessageError."""
    return messages.reply(*_parts(records))


def answered(records: RecordDict, site: str, folder: Path, answer: Callable[[Request], Reply]) -> Reply:
    """What `answer` replies to the request in a Flower message; of whatever it raises the code alone.

    Flower sends the text of an exception to the server, and it may quote a record. folder: of the site's own log.
    """
    asked = Request("hello", "")
    try:
        asked = request(records)
        return answer(asked)
    except Exception as error:
        problem = keep(folder, asked.run, asked.task, asked.round, error)
        return Reply(asked.task, asked.run, site, asked.round, problem=problem)


def _parts(records: RecordDict) -> tuple[str, Sequence[bytes]]:
    if HEADER not in records or "json" not in records[HEADER]:
        raise MessageError("no message of thinwire: is thinwire's ClientApp or mod on the other side?")
    arrays = records.get(BLOBS, {})
    strange = [array.stype for array in arrays.values() if array.stype != STYPE]
    if strange:
        raise MessageError(f"an array of type {strange[0]!r}: allowed is {STYPE}")
    return str(records[HEADER]["json"]), [arrays[name].data for name in sorted(arrays)]
