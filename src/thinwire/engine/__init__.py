"""One round for any method: what simulation and a real federation share."""

from thinwire.engine.checks import refuse_non_finite
from thinwire.engine.client import ClientState, Sending, send
from thinwire.engine.exchange import exchange_of, message, receive
from thinwire.engine.server import Outcome, Upload, aggregate
from thinwire.engine.versions import Server, begin
from thinwire.server_optimizer import PLAIN

__all__ = [
    "PLAIN",
    "ClientState",
    "Outcome",
    "Sending",
    "Server",
    "Upload",
    "aggregate",
    "begin",
    "exchange_of",
    "message",
    "receive",
    "refuse_non_finite",
    "send",
]
