"""The section [data] of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from thinwire.settings import setting

TASKS = ("text", "sequence", "token", "image")


@dataclass(frozen=True)
class DataConfig:
    """Examples, and who holds which."""

    task: str = setting(
        "text", "what is learned: to write text, or a class of each sequence, token or image", choices=TASKS
    )
    source: str = setting("generator", "`generator`, `digits`, a folder or file (JSONL, CSV, Parquet), a hub data set")
    clients: tuple[str, ...] = setting((), "domains or files that are clients; empty: all that the source has")
    evaluate: tuple[str, ...] = setting((), "further domains that are only evaluated (out of domain)")
    partition: str = setting("file", "how examples become clients", choices=("file", "column", "iid", "dirichlet"))
    column: str | None = setting(None, "column of the client (partition column) or of the label (dirichlet, table)")
    count: int = setting(4, "number of clients for iid and dirichlet", low=1)
    alpha: float = setting(0.5, "concentration of dirichlet; small is uneven", above=0)
    instruction: str = setting("instruction", "column of the question")
    context: str = setting("input", "column of further input, may be absent")
    response: str = setting("response", "column of the answer, on which the loss is taken")
    messages: str | None = setting(
        None, "column of a conversation; none: `messages` or `conversations`, where a record has one; empty: no column"
    )
    system: str | None = setting(
        None, "column of the system prompt, may be absent; none: `system`, beside a conversation; empty: no column"
    )
    turns: str = setting("all", "the assistant's turns that training takes the loss on", choices=("all", "last"))
    template: str = setting(
        "auto",
        "how an example becomes text; auto: chat for a conversation, if the tokenizer has a template, else alpaca",
        choices=("auto", "alpaca", "chat", "plain"),
    )
    text: str = setting("text", "column of what is classified, and of the text of template plain")
    label: str = setting("label", "column of the class; of the class of each word with task token")
    labels: tuple[str, ...] = setting((), "all classes; empty: the training records' labels, sorted")
    image: str = setting("image", "column of the image")
    image_size: int | None = setting(None, "side in pixels to resize images to; none: the model's, or none", low=1)
    max_length: int = setting(128, "tokens of a sequence; what is longer is cut off, or into several (plain)", low=8)
    train_limit: int | None = setting(None, "examples per domain for training", low=1)
    validation: float = setting(0.0, "share set aside as validation split where the source has none", low=0, below=1)
    held_out: str = setting(
        "records", "what is set aside: whole records, or the tail of every text", choices=("records", "tail")
    )
    test_limit: int | None = setting(None, "examples per domain for evaluation", low=1)
    split: str = setting("test", "split on which the run is evaluated", choices=("test", "validation"))
