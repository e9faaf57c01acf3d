"""Records to tokens: the prompt, then the response on which the loss is taken.

`alpaca` is the compact form of the public Alpaca prompt: its headings without the preamble, which would take half of a
short sequence. `chat` is the tokenizer's own chat template. `plain` is bare text with the loss on all of it, cut into
as many sequences as it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thinwire.config import DataConfig
from thinwire.data import IGNORED, Example
from thinwire.data.values import Record, at, columns, text_in
from thinwire.settings import ConfigError

Tokenizer = Any  # a transformers PreTrainedTokenizerBase


def encode(record: Record, tokenizer: Tokenizer, config: DataConfig) -> list[Example]:
    """The record as sequences of at most `data.max_length` tokens; none if it has no room for a response token.

    Prompt and response are tokenised apart, so the labels are exact. A response that is too long is cut; one that fits
    ends with the end-of-sequence token (in `chat`, with what the template writes at the end of a turn). A record with
    an empty response (in `plain`: without text) gives none. In `plain` nothing is lost: a long text becomes several
    sequences, each of which begins with the token that the one before ends with, so every token is predicted once.
    Raises: ConfigError for a missing column or chat template.
    """
    return encode_many([record], tokenizer, config)[0]


def encode_many(records: Sequence[Record], tokenizer: Tokenizer, config: DataConfig) -> list[list[Example]]:
    """`encode` of each record; the texts are tokenised in two batches."""
    pairs = [texts(record, tokenizer, config) for record in records]
    prompts = _prompt_tokens([prompt for prompt, _ in pairs], tokenizer, config)
    responses = _tokens([response for _, response in pairs], tokenizer, special=False)
    ends = [] if config.template == "chat" or tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    cut = _chunks if config.template == "plain" else _answered
    return [
        cut(prompt, response + ends, config.max_length) if response else []
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def prompt_tokens(record: Record, tokenizer: Tokenizer, config: DataConfig) -> list[int]:
    """The tokens before the response: what a model is given to generate from, and what is encoded before the labels."""
    return _prompt_tokens([texts(record, tokenizer, config)[0]], tokenizer, config)[0]


def answer(record: Record, config: DataConfig) -> str:
    """The bare response of a record, to compare what was generated with."""
    return _column(record, config.response, "response")


def texts(record: Record, tokenizer: Tokenizer, config: DataConfig) -> tuple[str, str]:
    """(prompt, response) of a record in the template's words, without what only tokens can say (start and end)."""
    if config.template == "plain":
        return _plain(record, config)
    instruction = _column(record, config.instruction, "instruction")
    context = text_in(record, config.context, "context")
    response = answer(record, config)
    if config.template == "chat":
        question = f"{instruction}\n\n{context}" if context else instruction
        return _chat(question, response, tokenizer)
    block = f"### Input:\n{context}\n\n" if context else ""
    return f"### Instruction:\n{instruction}\n\n{block}### Response:\n", response


def _plain(record: Record, config: DataConfig) -> tuple[str, str]:
    """A text column is all response; otherwise the columns that are there, a line each, the last as the response."""
    fields = {name: getattr(config, name) for name in ("instruction", "context", "response")}
    lines = [text for text in (text_in(record, column, field) for field, column in fields.items()) if text]
    if not any(column in record for column in fields.values()):
        lines = [_column(record, config.text, "text")]
    *prompt, response = lines or [""]
    return "".join(line + "\n" for line in prompt), response


def _chat(question: str, response: str, tokenizer: Tokenizer) -> tuple[str, str]:
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError("data.template = 'chat': the model's tokenizer has no chat template; use alpaca or plain")
    turns = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": response}], tokenize=False)
    if not response:
        return prompt, ""
    # some templates open a thought after the prompt that they leave out of a finished turn
    return prompt, whole.removeprefix(prompt) if whole.startswith(prompt) else response + (tokenizer.eos_token or "")


def _prompt_tokens(prompts: list[str], tokenizer: Tokenizer, config: DataConfig) -> list[list[int]]:
    # a chat template writes the start of the sequence itself
    ids = _tokens(prompts, tokenizer, special=config.template != "chat")
    return [row[:-1] if row and row[-1] == tokenizer.eos_token_id and config.template != "chat" else row for row in ids]


def _tokens(batch: list[str], tokenizer: Tokenizer, special: bool) -> list[list[int]]:
    return tokenizer(batch, add_special_tokens=special, verbose=False)["input_ids"] if batch else []


def _answered(prompt: list[int], response: list[int], most: int) -> list[Example]:
    tokens = tuple((prompt + response)[:most])
    return [Example(tokens, (IGNORED,) * len(prompt) + tokens[len(prompt) :])] if len(prompt) < len(tokens) else []


def _chunks(prompt: list[int], response: list[int], most: int) -> list[Example]:
    tokens = tuple(prompt + response)
    pieces = [tokens[low : low + most] for low in range(0, max(len(tokens) - 1, 1), most - 1)]
    return [Example(piece, piece) for piece in pieces]


def _column(record: Record, column: str, field: str) -> str:
    if column not in record:
        raise ConfigError(f"{at(record, column, field)} is missing; the columns are {columns(record)}")
    return text_in(record, column, field)
