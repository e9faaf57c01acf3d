"""The ClientApp of `thinwire join`: each message goes to the site's resident trainer, and its answer back."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from thinwire.federation import socket
from thinwire.flower import records

app = ClientApp()


@app.train()
@app.evaluate()
def answer(message: Message, context: Context) -> Message:
    """Flower starts a process for this function; the base model stays in the trainer's."""
    site = Path(str(context.node_config["site"]))
    reply = records.answered(message.content, "", site, lambda asked: socket.ask(site, asked))
    return Message(records.content(reply), reply_to=message)
