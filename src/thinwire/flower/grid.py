"""A coordinator's messages through Flower's grid."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from thinwire.federation.members import Replies
from thinwire.federation.messages import MessageError, Reply, Request
from thinwire.flower import records

SCORING = ("evaluate", "test")
"""Tasks that go to a ClientApp's evaluate function; the others go to train."""

FLOWER = {
    1: "the node's app cannot be loaded",
    2: "the node's app failed",
    3: "the message did not arrive",
    4: "the reply did not arrive",
    5: "the node is not there",
    6: "the node's app refused",
    7: "the node does not accept the app",
    8: "the node's app ended",
}
"""Flower's codes of an error, in words."""

PAUSE = 0.2
"""Seconds between looks for replies; Flower's own loop sleeps for three."""


@dataclass(frozen=True)
class GridTransport:
    """`federation.drive.Transport` over a grid."""

    grid: Grid

    def nodes(self) -> Iterable[int]:
        return list(self.grid.get_node_ids())

    def exchange(self, requests: Mapping[int, Request], seconds: float) -> Replies:
        end = time.monotonic() + seconds
        waiting = set(self.grid.push_messages(outgoing(requests, seconds))) - {None}
        replies: list[Message] = []
        while waiting and time.monotonic() < end:
            came = list(self.grid.pull_messages(waiting))
            replies += came
            waiting -= {message.metadata.reply_to_message_id for message in came}
            time.sleep(PAUSE if waiting else 0)
        return received(replies)


def outgoing(requests: Mapping[int, Request], seconds: float | None = None) -> list[Message]:
    """One message a node; after `seconds` the SuperLink delivers neither it nor its reply."""
    return [
        Message(
            records.content(request),
            dst_node_id=node,
            message_type="evaluate" if request.task in SCORING else "train",
            group_id=str(request.round + 1),
            ttl=seconds,
        )
        for node, request in sorted(requests.items())
    ]


def received(replies: Iterable[Message]) -> dict[int, Reply | str]:
    """Replies by node, or in words why a node sent none."""
    found: dict[int, Reply | str] = {}
    for message in replies:
        node = message.metadata.src_node_id
        if message.has_error():
            code = int(message.error.code)  # its text is the node's, and may hold anything
            found[node] = f"Flower reports: {FLOWER.get(code, 'an error')} (code {code})"
            continue
        try:
            found[node] = records.reply(message.content)
        except MessageError as error:
            found[node] = str(error)
    return found
