"""A Flower grid within this process: messages go through Flower's real serialisation to ClientApps and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents


@dataclass
class LocalGrid(Grid):
    """Nodes with their app and settings. `lose` says for a message that no reply comes, or with which error."""

    apps: dict[int, ClientApp]
    settings: dict[int, dict[str, Any]]
    lose: Callable[[Message], object] = lambda message: False
    config: dict[str, Any] = field(default_factory=dict)
    bytes: int = 0
    log: list[Message] = field(default_factory=list)
    answers: list[Message] = field(default_factory=list)
    waiting: dict[str, Message] = field(default_factory=dict)

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names = []
        for message in messages:
            names.append(message.object_id)
            for reply in self.send_and_receive([message]):
                reply.metadata.__dict__["_reply_to_message_id"] = names[-1]
                self.waiting[names[-1]] = reply
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self.waiting.pop(name) for name in message_ids if name in self.waiting]

    def get_node_ids(self) -> Iterable[int]:
        return list(self.apps)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = []
        for message in reversed(list(messages)):
            node = message.metadata.dst_node_id
            arrived = self.through(message)
            self.log.append(arrived)
            context = Context(1, node, self.settings[node], RecordDict(), self.config)
            answer = self.apps[node](arrived, context)
            lost = self.lose(message)
            if lost:
                if isinstance(lost, str):
                    answer = Message(Error(code=3, reason=lost), reply_to=arrived)
                    answer.metadata.__dict__["_src_node_id"] = node
                    replies.append(answer)
                continue
            replies.append(self.through(answer, node))
            self.answers.append(replies[-1])
        return replies

    def through(self, message: Message, source: int | None = None) -> Message:
        """The message as the other side unpacks it."""
        objects = get_all_nested_objects(message)
        packed = {name: each.deflate() for name, each in objects.items()}
        self.bytes += sum(map(len, packed.values()))
        back = inflate_object_from_contents(message.object_id, packed)
        assert isinstance(back, Message)
        if source is not None:
            back.metadata.__dict__["_src_node_id"] = source
        return back
