"""What is not a message is named: a header's values are checked against the message's fields, all of them."""

from __future__ import annotations

import json
import struct
from multiprocessing import Pipe

import pytest

from thinwire.federation import messages
from thinwire.federation.messages import MessageError, Reply, Request

REQUEST = {"task": "round", "run": "r", "round": 3, "version": 2, "counted": -1, "recipe": {}, "client": {"name": "a"}}
REPLY = {"task": "round", "run": "r", "site": "a", "round": 3, "version": None, "problem": "", "facts": {"loss": 1.5}}


@pytest.mark.parametrize("message", [Request(**REQUEST, blobs=(b"x", b"")), Reply(**REPLY, blobs=(b"y" * 100_000,))])
def test_what_is_sent_comes_back(message):
    here, there = Pipe()
    messages.send(here, message)
    read = messages.request if isinstance(message, Request) else messages.reply
    assert read(*messages.receive(there)) == message


@pytest.mark.parametrize("field", [name for name in REQUEST if name != "task"])
@pytest.mark.parametrize("value", [1.5, True, ["x"], {"a": 1}, "x", None])
def test_every_field_of_a_request_has_its_type(field, value):
    text = json.dumps({**REQUEST, field: value})
    if isinstance(value, type(REQUEST[field])) and not isinstance(value, bool):
        assert getattr(messages.request(text, ()), field) == value
    else:
        with pytest.raises(MessageError, match=rf"request\.{field} = .*: allowed is"):
            messages.request(text, ())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nope", "reply: a header that is not JSON"),
        ("3", "reply: a header that is not a table of values: 3"),
        ("{}", "reply.task is missing"),
        (json.dumps({**REPLY, "more": 1}), "reply.more is unknown"),
        (json.dumps({**REPLY, "version": "1"}), "reply.version = '1': allowed is an integer or nothing"),
        (json.dumps({**REPLY, "site": None}), "reply.site = None: allowed is a text"),
        (json.dumps({**REPLY, "facts": [1]}), r"reply.facts = \[1\]: allowed is a table"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_bad_headers_are_named(text, words):
    with pytest.raises(MessageError, match=words):
        messages.reply(text, ())


def test_figures_that_are_no_number_pass_as_facts():
    """A metric of an app's own may be undefined; what is done with it is decided where it is used."""
    assert messages.reply(json.dumps({**REPLY, "facts": {"f1": float("nan")}}), ()).facts["f1"] != 0


def test_an_unknown_task_is_named():
    with pytest.raises(MessageError, match=r"request\.task = 'dance': allowed is one of hello, round"):
        messages.request(json.dumps({**REQUEST, "task": "dance"}), ())


@pytest.mark.parametrize(
    ("junk", "error"),
    [
        (b"", EOFError),
        (b"\0\0\0\x08", EOFError),
        (b"\xff" * 64, EOFError),
        (struct.pack("!i", messages.HEADER + 1), EOFError),
        (struct.pack("!i", 4) + b"nope", MessageError),
        (struct.pack("!i", 11) + b"99999999 {}", MessageError),
        (struct.pack("!i", 4) + b"\xff\xff\xff\xff", MessageError),
    ],
)
def test_bytes_that_are_no_message(junk, error):
    import os

    here, there = Pipe()
    os.write(here.fileno(), junk)
    here.close()
    with pytest.raises(error):
        messages.receive(there)
