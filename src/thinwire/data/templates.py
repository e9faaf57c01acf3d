"""Records to tokens: what is asked, and what is answered, on which the loss is taken.

`alpaca` is the compact form of the public Alpaca prompt: its headings without the preamble, which would take half of a
short sequence; a conversation repeats them. `chat` is the tokenizer's own chat template. `auto` is `chat` for
conversations, where the tokenizer has a template, else `alpaca`. `plain` is bare text with the loss on all of it, cut
into as many sequences as it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thinwire.data import IGNORED, Example
from thinwire.data.chat import Tokenizer, has_template, write_chat
from thinwire.data.config import DataConfig
from thinwire.data.conversation import Conversation, Turn, form_of, only_last, read_talk
from thinwire.data.values import Record, at, columns, text_in
from thinwire.settings import ConfigError


@dataclass(frozen=True)
class Piece:
    """A part of a record's text. trained: the loss is taken on it; ends: the end-of-sequence token follows."""

    text: str
    trained: bool
    ends: bool = False


@dataclass(frozen=True)
class RecordText:
    """A record as text. whole: the pieces are tokenised as one text that writes its own start (a chat template's)."""

    pieces: tuple[Piece, ...]
    whole: bool = False


@dataclass(frozen=True)
class Row:
    """A record's tokens, of any number, and for each whether the loss is taken on it."""

    tokens: tuple[int, ...]
    trained: tuple[bool, ...]

    @property
    def prompt(self) -> int:
        """The number of tokens before the first that is trained; all of them if none is."""
        return next((place for place, own in enumerate(self.trained) if own), len(self.tokens))


def encode(record: Record, tokenizer: Tokenizer, config: DataConfig) -> list[Example]:
    """The record as sequences of at most `data.max_length` tokens; none if it has no room for a response token.

    Labels are exact: prompt and response are tokenised apart, or the tokens of a chat template's text are told by their
    place in it. What is too long is cut at its end; a response that fits ends with the end-of-sequence token (in
    `chat`, with what the template writes at the end of a turn). A record with an empty response (in `plain`: without
    text) gives none. In `plain` nothing is lost: a long text becomes several sequences, each of which begins with the
    token that the one before ends with, so every token is predicted once.
    Raises: ConfigError for a missing column or chat template, for what is not text, for what a template refuses.
    """
    return encode_many([record], tokenizer, config)[0]


def encode_many(records: Sequence[Record], tokenizer: Tokenizer, config: DataConfig) -> list[list[Example]]:
    """`encode` of each record."""
    cut = _chunks if config.template == "plain" else _cut
    return [cut(row, config.max_length) for row in rows_of(records, tokenizer, config)]


def rows_of(records: Sequence[Record], tokenizer: Tokenizer, config: DataConfig) -> list[Row]:
    """The tokens of each record, uncut; the texts are tokenised in batches."""
    written = [write(record, tokenizer, config) for record in records]
    whole = [at for at, one in enumerate(written) if one.whole and tokenizer.is_fast]
    apart = [at for at in range(len(written)) if at not in set(whole)]
    rows = dict(zip(whole, _whole([written[at] for at in whole], tokenizer), strict=True))
    rows |= dict(zip(apart, _apart([written[at] for at in apart], tokenizer), strict=True))
    return [rows[at] for at in range(len(written))]


def write(record: Record, tokenizer: Tokenizer, config: DataConfig) -> RecordText:
    """A record in the template's words, without what only tokens can say (start and end); no pieces: nothing to learn.

    Raises: ConfigError.
    """
    if config.template == "plain":
        return RecordText(_plain(record, config))
    talk = read_talk(record, config)
    if not talk.turns:
        return RecordText(())
    if config.turns == "last":
        talk = only_last(talk)
    if template_of(talk, tokenizer, config) == "alpaca":
        return RecordText(_alpaca(talk))
    text, spans = write_chat(talk, tokenizer)
    return RecordText(_pieces(text, spans), whole=True)


def template_of(talk: Conversation, tokenizer: Tokenizer, config: DataConfig) -> str:
    """The template that `data.template` means for a record: `alpaca` or `chat`."""
    if config.template != "auto":
        return config.template
    return "chat" if talk.chatty and has_template(tokenizer) else "alpaca"


def read_from(records: Sequence[Record], config: DataConfig) -> str:
    """The columns that records are read from, in words."""
    forms = {(config.text,) if config.template == "plain" else form_of(record, config) for record in records}
    return "columns " + ", ".join(repr(name) for name in sorted({name for form in forms for name in form}))


def described(record: Record, tokenizer: Tokenizer, config: DataConfig) -> str:
    """How a record is read, in words. Raises: ConfigError."""
    if config.template == "plain":
        return "plain text"
    talk = read_talk(record, config)
    words = {"alpaca": "Alpaca's headings", "chat": "the model's chat template"}
    kind = "conversations" if talk.chatty else "instruction and response"
    return f"{kind} in {' and '.join(form_of(record, config))}, with {words[template_of(talk, tokenizer, config)]}"


def _plain(record: Record, config: DataConfig) -> tuple[Piece, ...]:
    """A text column is all response; otherwise the columns that are there, a line each."""
    fields = {name: getattr(config, name) for name in ("instruction", "context", "response")}
    lines = [text for text in (text_in(record, column, field) for field, column in fields.items()) if text]
    if not any(column in record for column in fields.values()):
        if config.text not in record:
            raise ConfigError(f"{at(record, config.text, 'text')} is missing; the columns are {columns(record)}")
        lines = [text] if (text := text_in(record, config.text, "text")) else []
    *before, last = lines or [""]
    pieces = (Piece("".join(line + "\n" for line in before), True), Piece(last, True, ends=True))
    return pieces if last else ()


def _alpaca(talk: Conversation) -> tuple[Piece, ...]:
    """A turn a heading; each answer ends with the end-of-sequence token, and an empty line follows it."""
    if talk.tools:
        raise ConfigError(f"{talk.place}, column 'tools': data.template = 'alpaca' has no place for tools; {_USE_CHAT}")
    pieces: list[Piece] = []
    before = ""
    for number, turn in enumerate(talk.turns, start=1):
        if turn.role == "assistant" and "tool_calls" not in turn.more:
            pieces += [Piece(before + "### Response:\n", False), Piece(turn.content, turn.says, ends=True)]
            before = "\n\n"
        else:
            before += _heading(turn, f"{talk.place}, turn {number}")
    return tuple(pieces)


def _heading(turn: Turn, place: str) -> str:
    if turn.role in ("system", "developer"):
        return f"{turn.content}\n\n"
    if turn.role != "user":
        what = "tool_calls" if turn.role == "assistant" else f"the role {turn.role!r}"
        raise ConfigError(f"{place}: data.template = 'alpaca' has no form for {what}; {_USE_CHAT}")
    block = f"### Input:\n{turn.context}\n\n" if turn.context else ""
    return f"### Instruction:\n{turn.content}\n\n{block}"


_USE_CHAT = "take data.template = 'chat' and a tokenizer whose chat template has one"


def _pieces(text: str, spans: Sequence[tuple[int, int]]) -> tuple[Piece, ...]:
    """The text, cut at the spans, which are trained."""
    pieces, done = [], 0
    for begin, end in spans:
        pieces += [Piece(text[done:begin], False), Piece(text[begin:end], True)]
        done = end
    return (*pieces, Piece(text[done:], False))


def _apart(written: Sequence[RecordText], tokenizer: Tokenizer) -> list[Row]:
    """The pieces tokenised one by one, the first with the tokenizer's start of a sequence."""
    firsts = [one.pieces[0].text if one.pieces and not one.whole else "" for one in written]
    starts = [_unended(row, tokenizer) for row in _tokens(firsts, tokenizer, special=True)]
    flat = [piece.text for one in written for piece in one.pieces]
    ids = iter(_tokens(flat, tokenizer, special=False))
    ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    rows = []
    for one, start in zip(written, starts, strict=True):
        tokens: list[int] = []
        trained: list[bool] = []
        for number, piece in enumerate(one.pieces):
            own = next(ids)
            own = (start if number == 0 and not one.whole else own) + (ends if own and piece.ends else [])
            tokens += own
            trained += [piece.trained] * len(own)
        rows.append(Row(tuple(tokens), tuple(trained)))
    return rows


def _whole(written: Sequence[RecordText], tokenizer: Tokenizer) -> list[Row]:
    """The pieces tokenised as one text; a token is trained if any of its characters is."""
    if not written:
        return []
    texts = ["".join(piece.text for piece in one.pieces) for one in written]
    found = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [
        Row(tuple(tokens), _trained(one, places))
        for one, tokens, places in zip(written, found["input_ids"], found["offset_mapping"], strict=True)
    ]


def _trained(written: RecordText, places: Sequence[tuple[int, int]]) -> tuple[bool, ...]:
    marks = [mark for piece in written.pieces for mark in [piece.trained] * len(piece.text)]
    return tuple(any(marks[begin:end]) for begin, end in places)


def _unended(row: list[int], tokenizer: Tokenizer) -> list[int]:
    return row[:-1] if row and row[-1] == tokenizer.eos_token_id else row


def _tokens(batch: list[str], tokenizer: Tokenizer, special: bool) -> list[list[int]]:
    return tokenizer(batch, add_special_tokens=special, verbose=False)["input_ids"] if batch else []


def _cut(row: Row, most: int) -> list[Example]:
    labels = [token if own else IGNORED for token, own in zip(row.tokens, row.trained, strict=True)][:most]
    return [Example(row.tokens[:most], tuple(labels))] if any(label != IGNORED for label in labels[1:]) else []


def _chunks(row: Row, most: int) -> list[Example]:
    if len(row.tokens) < 2:
        return []
    pieces = [row.tokens[low : low + most] for low in range(0, max(len(row.tokens) - 1, 1), most - 1)]
    return [Example(piece, piece) for piece in pieces]
