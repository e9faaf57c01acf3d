"""A site's trainer that lies in some rounds: `python evil_trainer.py SITE`, in place of the one that `join` starts."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from thinwire.federation import messages
from thinwire.federation import socket as local
from thinwire.federation.messages import Reply
from thinwire.federation.settings import load_site
from thinwire.federation.site import Trainers
from thinwire.payload import dense
from thinwire.wire import pack, unpack

LIES = ("", "garbage", "another run", "nan", "replay", "reply of another run", "reply of before", "no message", "")
"""What is wrong with the upload of round 0, 1, ...; nothing: it is the true one."""


def lie(name: str, reply: Reply, first: Reply) -> Reply:
    """The reply, spoilt. first: that of round 0."""
    payload = unpack(reply.blob)
    nan = {key: dense(torch.full(leaf.shape, float("nan"))) for key, leaf in payload.leaves.items()}
    made = {
        "garbage": replace(reply, blobs=(b"garbage" * 1000,)),
        "another run": replace(reply, blobs=(pack(replace(payload, run=payload.run + 1)),)),
        "nan": replace(reply, blobs=(pack(replace(payload, leaves=nan)),)),
        "replay": replace(reply, blobs=first.blobs),
        "reply of another run": replace(reply, run="fedsrd-0123456789abcdef"),
        "reply of before": first,
    }
    return made.get(name, reply)


def main(folder: Path) -> None:
    server, site = local.listen(folder), load_site(folder)
    trainers, first = Trainers(site, site.federation), None
    while True:
        connection, _ = server.accept()
        with contextlib.suppress(EOFError, OSError), Connection(connection.detach()) as stream:
            request = messages.request(*messages.receive(stream))
            reply = trainers.answer(request)
            name = LIES[request.round] if request.task == "round" else ""
            first = reply if request.task == "round" and request.round == 0 else first
            if name == "no message":
                os.write(stream.fileno(), b"\xff" * 1000)
                continue
            messages.send(stream, lie(name, reply, first) if name else reply)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
