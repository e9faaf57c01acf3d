"""A record of text as turns, whichever of the usual forms it has.

One column holds a conversation (OpenAI's form: role and content; ShareGPT's: from and value), or two columns hold what
is asked and what is answered, each as a text or as a list of turns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from thinwire.data.config import DataConfig
from thinwire.data.values import Record, as_text, at, columns, missing, shown
from thinwire.settings import ConfigError, listed

CONVERSATIONS = ("messages", "conversations")
"""Columns that are read as a conversation without being named."""

PAIR = ("prompt", "completion")
"""Columns that are read as instruction and response without being named."""

TOOLS = "tools"
"""The column with the tools that a conversation may call, as JSON schemas."""

ROLES = {
    "system": "system", "developer": "developer", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant", "tool": "tool",
    "observation": "tool", "function": "function",
}  # fmt: skip
"""What data sets call a role -> what chat templates call it."""

KEYS = (("role", "content"), ("from", "value"))
LIKE = "[{'role': 'user', 'content': '...'}, {'role': 'assistant', 'content': '...'}]"
PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True)
class Turn:
    """What one role says. trained: the loss may be taken on it; more: what else a chat template may read of it."""

    role: str
    content: str
    trained: bool = False
    context: str = ""  # further input of an instruction
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def says(self) -> bool:
        """Whether there is anything to train on."""
        return self.trained and bool(self.content or self.more.get("tool_calls"))


@dataclass(frozen=True)
class Conversation:
    """A record's turns up to the last one that is trained; none if nothing in it can be trained on.

    place: where it was read, for errors; chatty: it was written as turns, not as an instruction and a response.
    """

    turns: tuple[Turn, ...]
    place: str
    chatty: bool
    tools: tuple[Any, ...] = ()


def form_of(record: Record, config: DataConfig) -> tuple[str, ...]:
    """The columns that are read of a record: one with a conversation, or one to ask and one to answer.

    What the recipe names wins. Raises: ConfigError where two forms are equally good.
    """
    own = (config.instruction, config.response)
    if config.messages:
        return (config.messages,)
    if own != _default_columns():
        return own
    forms = [own, *((name,) for name in CONVERSATIONS), PAIR]
    held = [form for form in forms if all(name in record for name in form)]
    if config.messages == "":
        held = [form for form in held if len(form) > 1][:1]
    full = [form for form in held if not any(_empty(record[name]) for name in form)]
    if len(full) > 1:
        found = " or ".join(" with ".join(form) for form in full)
        raise ConfigError(
            f"{_place(record)}: it can be read as {found}; allowed is one of them: data.messages names the column of "
            "the conversation ('': there is none), data.instruction and data.response those of question and answer"
        )
    return (full or held or [own])[0]


def read_talk(record: Record, config: DataConfig) -> Conversation:
    """The record's turns. Raises: ConfigError for a missing column, an unknown role, or what is not text."""
    form = form_of(record, config)
    if len(form) == 1:
        turns, chatty = _conversation(record, form[0]), True
    else:
        turns, chatty = _pair(record, form, config)
    own = form == (config.instruction, config.response)
    turns = _with_system(turns, record, config, by_name=not own)
    tools = _tools(record) if chatty else ()
    last = max((at for at, turn in enumerate(turns, start=1) if turn.says), default=0)
    return Conversation(tuple(turns[:last]), _place(record), chatty, tools)


def only_last(talk: Conversation) -> Conversation:
    """The same, with the loss on its last turn only."""
    before = [replace(turn, trained=False) for turn in talk.turns[:-1]]
    return replace(talk, turns=(*before, *talk.turns[-1:]))


def _default_columns() -> tuple[str, str]:
    config = DataConfig()
    return config.instruction, config.response


def _place(record: Record) -> str:
    return getattr(record, "place", "a record")


def _conversation(record: Record, column: str) -> list[Turn]:
    place = at(record, column, "messages")
    if column not in record:
        raise ConfigError(f"{place} is missing; the columns are {columns(record)}")
    value = record[column]
    return [] if _empty(value) else _turns(_opened(value, place), place)


def _pair(record: Record, form: Sequence[str], config: DataConfig) -> tuple[list[Turn], bool]:
    """The turns of two columns, and whether one of them holds a list; what is asked is not trained."""
    for column, name in zip(form, ("instruction", "response"), strict=True):
        if column not in record:
            raise ConfigError(f"{at(record, column, name)} is missing; the columns are {columns(record)}")
    asked, answered = (record[column] for column in form)
    if _is_turns(asked):
        prompt = _turns(asked, at(record, form[0], "instruction"))
    else:
        context = as_text(record.get(config.context), at(record, config.context, "context"))
        prompt = [Turn("user", as_text(asked, at(record, form[0], "instruction")), context=context)]
    place = at(record, form[1], "response")
    completion = _turns(answered, place) if _is_turns(answered) else [Turn("assistant", as_text(answered, place), True)]
    untrained = [replace(turn, trained=False) for turn in prompt]
    return untrained + completion, _is_turns(asked) or _is_turns(answered)


def _with_system(turns: list[Turn], record: Record, config: DataConfig, by_name: bool) -> list[Turn]:
    """The turns after the system prompt of a column of its own; unless it is named, beside turns only."""
    column = ("system" if by_name else "") if config.system is None else config.system
    place = at(record, column, "system")
    text = as_text(record.get(column), place)
    if not text or not turns:
        return turns
    if turns[0].role in ("system", "developer"):
        if turns[0].content == text:
            return turns
        raise ConfigError(
            f"{place}: the conversation begins with another system prompt; leave one out, or with data.system = '' "
            "this column"
        )
    return [Turn("system", text), *turns]


def _tools(record: Record) -> tuple[Any, ...]:
    value, place = record.get(TOOLS), f"{_place(record)}, column {TOOLS!r}"
    if _empty(value):
        return ()
    tools = _opened(value, place)
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, Mapping) for tool in tools):
        raise ConfigError(f"{place}: {shown(value)}; allowed is a list of JSON schemas, one a tool")
    return tuple(tools)


def _empty(value: Any) -> bool:
    return missing(value) or (isinstance(value, str) and not value.strip())


def _opened(value: Any, place: str) -> Any:
    """A list that was kept as JSON text, as in a CSV file; anything else as it is."""
    if not isinstance(value, str | bytes):
        return value
    text = as_text(value, place)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(f"{place}: {shown(text)}; allowed is a list of turns such as {LIKE}, also as JSON") from None


def _is_turns(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(
        isinstance(item, Mapping) and any(keys[0] in item for keys in KEYS) for item in value
    )


def _turns(value: Any, place: str) -> list[Turn]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{place}: {shown(value)}; allowed is a list of turns such as {LIKE}")
    return [_turn(item, f"{place}, turn {number}") for number, item in enumerate(value, start=1)]


def _turn(item: Any, place: str) -> Turn:
    names = next((k for k in KEYS if isinstance(item, Mapping) and not missing(item.get(k[0]))), None)
    if names is None:
        raise ConfigError(f"{place}: {shown(item)}; allowed is a table with role and content, or with from and value")
    said, content = names
    name = as_text(item[said], f"{place}, {said}")
    role = ROLES.get(name.lower())
    if role is None:
        raise ConfigError(f"{place}: the role {shown(name)} is unknown; allowed: {listed(ROLES)}")
    calls = not missing(item.get("tool_calls"))
    if content not in item and not calls:
        raise ConfigError(f"{place} (role {name!r}) has no {content}; it has {listed(map(shown, item))}")
    more = {key: value for key, value in item.items() if key not in (*names, "weight") and not missing(value)}
    trained = role == "assistant" and _weight(item.get("weight"), f"{place}, weight")
    return Turn(role, _content(item.get(content), f"{place}, {content}"), trained, more=more)


def _weight(value: Any, place: str) -> bool:
    """Whether a turn is to be learned: OpenAI's weight of 0 says that it is not."""
    if missing(value):
        return True
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise ConfigError(f"{place}: {shown(value)}; allowed is 0 (no loss on this turn) or 1")


def _content(value: Any, place: str) -> str:
    if not isinstance(value, list | tuple):
        return as_text(value, place)
    return "".join(_part(part, f"{place}, part {number}") for number, part in enumerate(value, start=1))


def _part(part: Any, place: str) -> str:
    if not isinstance(part, Mapping):
        return as_text(part, place)
    kind = part.get("type")
    if "text" not in part or not (missing(kind) or kind in PARTS):
        raise ConfigError(f"{place} is of type {shown(kind)}; only parts of text are read")
    return as_text(part["text"], place)
