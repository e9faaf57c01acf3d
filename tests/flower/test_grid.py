"""The transport's own loop: it takes replies as they come, and stops at the deadline with those that came."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

pytest.importorskip("flwr", reason="the extra flower is not installed")

from flwr.app import Message, RecordDict

from thinwire.federation.messages import Reply, Request
from thinwire.flower import grid, records
from thinwire.flower.grid import GridTransport


class SlowGrid:
    """Each node's reply is there at the pull whose number is given; 0: never."""

    def __init__(self, at):
        self.at, self.pulls, self.asked = at, 0, {}

    def push_messages(self, messages):
        self.asked = {f"message-{message.metadata.dst_node_id}": message.metadata.dst_node_id for message in messages}
        return [*self.asked, None]

    def pull_messages(self, names):
        self.pulls += 1
        return [answer(self.asked[name], name) for name in names if self.at[self.asked[name]] == self.pulls]


def answer(node, name):
    content = records.content(Reply("hello", "r", f"site-{node}"))
    metadata = SimpleNamespace(src_node_id=node, reply_to_message_id=name)
    return SimpleNamespace(metadata=metadata, content=content, has_error=lambda: False)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(grid, "PAUSE", 0.01)


def exchange(at, seconds):
    slow = SlowGrid(at)
    return GridTransport(slow).exchange({node: Request("hello", "r") for node in at}, seconds), slow


def test_replies_are_taken_as_they_come():
    found, slow = exchange({1: 1, 2: 3}, 30.0)
    assert [found[node].site for node in (1, 2)] == ["site-1", "site-2"]
    assert slow.pulls == 3


def test_the_deadline_ends_the_wait():
    began = time.monotonic()
    found, _ = exchange({1: 1, 2: 0}, 0.1)
    assert list(found) == [1]
    assert 0.1 <= time.monotonic() - began < 5


def test_nobody_asked_is_nobody_awaited():
    assert exchange({}, 30.0)[0] == {}


def test_outgoing_messages_are_flower_s():
    (message,) = grid.outgoing({7: Request("test", "r", round=2)}, 5.0)
    assert isinstance(message, Message)
    assert isinstance(message.content, RecordDict)
    assert (message.metadata.dst_node_id, message.metadata.message_type) == (7, "evaluate")
    assert (message.metadata.group_id, message.metadata.ttl) == ("3", 5.0)
