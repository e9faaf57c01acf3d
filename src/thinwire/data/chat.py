"""A conversation through the tokenizer's own chat template, and which characters of it the loss is on.

Where a template marks what the assistant writes (`{% generation %}`), that is taken. Elsewhere a turn begins where the
prompt to generate it ends, and ends where the conversation up to it does; both are checked against the whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from thinwire.data.conversation import Conversation, Turn
from thinwire.data.values import as_text
from thinwire.settings import ConfigError

Tokenizer = Any  # a transformers PreTrainedTokenizerBase
Span = tuple[int, int]
Write = Callable[..., str]

MARKS = re.compile(r"\{%[-+]?\s*generation\b")
DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}{{ '' }}"
"""Put before a template that asks for the date, so that a run gives the same tokens on every day."""


def has_template(tokenizer: Tokenizer) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def write_chat(talk: Conversation, tokenizer: Tokenizer) -> tuple[str, list[Span]]:
    """The text of a talk, and where in it the loss is taken: a span of characters for each trained turn.

    Where the prompt of the last turn ends with what a finished turn lacks (it opens a thought), the text has it, too.
    Raises: ConfigError naming the record, the turn and its role, for what the template refuses or leaves out.
    """
    template = _template(talk, tokenizer)

    def write(turns: Sequence[Turn], prompt: bool = False, tools: Sequence[Any] = talk.tools) -> str:
        options: dict[str, Any] = {"tools": list(tools) or None, "chat_template": template}
        return tokenizer.apply_chat_template(
            [_message(turn) for turn in turns], tokenize=False, add_generation_prompt=prompt, **options
        )

    try:
        text = write(talk.turns)
        _check_complete(talk, text, write)
        if MARKS.search(template):
            return as_text(text, talk.place), _marked(talk, text, template, tokenizer)
        text, spans = _found(talk, text, write)
        return as_text(text, talk.place), spans
    except ConfigError:
        raise
    except Exception as error:  # a template is foreign code
        raise _refusal(talk, error, write) from error


def _template(talk: Conversation, tokenizer: Tokenizer) -> str:
    if not has_template(tokenizer):
        raise ConfigError("data.template = 'chat': the model's tokenizer has no chat template; use alpaca or plain")
    try:
        template = tokenizer.get_chat_template(tools=list(talk.tools) or None)
    except ValueError as error:
        raise ConfigError(f"data.template = 'chat': {_words(error)}") from error
    return DATE + template if "strftime_now" in template else template


def _message(turn: Turn) -> dict[str, Any]:
    content = f"{turn.content}\n\n{turn.context}" if turn.context else turn.content
    return {**turn.more, "role": turn.role, "content": content}


def _check_complete(talk: Conversation, text: str, write: Write) -> None:
    """Raises: ConfigError for a turn, its calls of tools, or tools, that the template passes over in silence."""
    for at, turn in enumerate(talk.turns):
        said = turn.content.strip()
        if said and said not in text and write(_put(talk.turns, at, _other(turn))) == text:
            raise ConfigError(f"{_at(talk, at)}: the chat template leaves this turn out; {_ADVICE}")
        if "tool_calls" in turn.more:
            silent = {key: value for key, value in turn.more.items() if key != "tool_calls"}
            if write(_put(talk.turns, at, replace(turn, more=silent))) == text:
                raise ConfigError(f"{_at(talk, at)}: the chat template leaves its tool_calls out; {_ADVICE}")
    if talk.tools and write(talk.turns, tools=()) == text:
        raise ConfigError(f"{talk.place}: the chat template leaves the column 'tools' out; {_ADVICE}")


def _put(turns: Sequence[Turn], at: int, turn: Turn) -> tuple[Turn, ...]:
    return (*turns[:at], turn, *turns[at + 1 :])


def _other(turn: Turn) -> Turn:
    """The turn with a content of one character that its own neither begins nor ends with."""
    said = turn.content.strip()
    return replace(turn, content=next(letter for letter in "012" if letter not in (said[:1], said[-1:])))


def _marked(talk: Conversation, text: str, template: str, tokenizer: Tokenizer) -> list[Span]:
    """The spans that the template marks, of the trained turns."""
    from transformers.utils.chat_template_utils import render_jinja_template

    _, found = render_jinja_template(
        conversations=[[_message(turn) for turn in talk.turns]],
        tools=list(talk.tools) or None,
        chat_template=template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    said = [(at, turn) for at, turn in enumerate(talk.turns) if turn.role == "assistant"]
    if len(found[0]) != len(said):
        raise ConfigError(
            f"{talk.place}: the chat template marks {len(found[0])} texts in {len(said)} turns of the assistant"
        )
    for (at, turn), (begin, end) in zip(said, found[0], strict=True):
        if turn.content.strip() not in text[begin:end]:
            raise ConfigError(f"{_at(talk, at)}: what the chat template marks is not this turn's text")
    return [span for (_, turn), span in zip(said, found[0], strict=True) if turn.says]


def _found(talk: Conversation, text: str, write: Write) -> tuple[str, list[Span]]:
    """The text and the trained turns' spans, by the prompts and the conversations up to each of them."""
    spans: list[Span] = []
    for at, turn in enumerate(talk.turns):
        if not turn.says:
            continue
        opened = write(talk.turns[:at], prompt=True) if at else ""
        follows = at > 0 and text.startswith(opened)
        begin = len(opened) if follows else _begin(talk, at, text, write)
        if at + 1 < len(talk.turns):
            end = _end(talk, at, text, begin, write)
        else:
            text, begin = (text, begin) if follows or not at else (opened + text[begin:], len(opened))
            end = len(text)
        if end <= begin or (spans and begin < spans[-1][1]):
            raise _unstable(talk, at)
        spans.append((begin, end))
    return text, spans


def _begin(talk: Conversation, at: int, text: str, write: Write) -> int:
    """Where the content of a turn begins whose prompt ends with more than it has before it, or that is the first."""
    if at and not text.startswith(write(talk.turns[:at])):
        raise _unstable(talk, at)
    return _content(talk, at, text, talk.turns, write)[0]


def _end(talk: Conversation, at: int, text: str, begin: int, write: Write) -> int:
    """Where a turn ends that others follow: after what the template writes at the end of a conversation that ends here.

    While it is the last one, a template may write more before its content (a thought), but the same after it.
    """
    turns = talk.turns[: at + 1]
    closed = write(turns)
    if text.startswith(closed) and len(closed) > begin:
        return len(closed)
    end = _content(talk, at, text, talk.turns, write)[1]
    after = closed[_content(talk, at, closed, turns, write)[1] :]
    if not text.startswith(after, end):
        raise _unstable(talk, at, "take data.turns = 'last', or ")
    return end + len(after)


def _content(talk: Conversation, at: int, text: str, turns: Sequence[Turn], write: Write) -> Span:
    """Where the content of a turn is in the text of turns: what changes when it does."""
    if not turns[at].content.strip():
        raise _unstable(talk, at)
    other = write(_put(turns, at, _other(turns[at])))
    begin, after = _common(text, other), _common(text[::-1], other[::-1])
    if begin + after >= len(text):
        raise _unstable(talk, at)
    return begin, len(text) - after


def _common(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


_ADVICE = "change the records, or take data.template = 'alpaca' or a tokenizer with another chat template"


def _at(talk: Conversation, at: int) -> str:
    return f"{talk.place}, turn {at + 1} (role {talk.turns[at].role!r})"


def _unstable(talk: Conversation, at: int, instead: str = "") -> ConfigError:
    return ConfigError(
        f"{_at(talk, at)}: the chat template writes this turn in another way within the whole conversation than at its "
        f"end, so the loss on it has no place; {instead}{_ADVICE}"
    )


def _refusal(talk: Conversation, error: Exception, write: Write) -> ConfigError:
    """The error of a template that raises, with the first turn at which it does so in the same words."""
    for at in range(len(talk.turns)):
        try:
            write(talk.turns[: at + 1])
        except Exception as again:  # a template is foreign code
            if str(again) == str(error):
                return ConfigError(f"{_at(talk, at)}: the chat template refuses it: {_words(error)}; {_ADVICE}")
    return ConfigError(f"{talk.place}: the chat template refuses the conversation: {_words(error)}; {_ADVICE}")


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
