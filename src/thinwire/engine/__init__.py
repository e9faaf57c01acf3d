"""One round for any method: what simulation and a real federation share."""

from thinwire.engine.checks import refuse_non_finite
from thinwire.engine.client import ClientSide, ClientState, Jobs, Sending, Work, plan, send, train
from thinwire.engine.exchange import exchange_of, message, receive
from thinwire.engine.jobs import Job, Train, TrainingResult
from thinwire.engine.rounds import Answer, ServerSide
from thinwire.engine.server import Outcome, Upload, aggregate
from thinwire.engine.versions import Server, begin
from thinwire.server_optimizer import PLAIN

__all__ = [
    "PLAIN",
    "Answer",
    "ClientSide",
    "ClientState",
    "Job",
    "Jobs",
    "Outcome",
    "Sending",
    "Server",
    "ServerSide",
    "Train",
    "TrainingResult",
    "Upload",
    "Work",
    "aggregate",
    "begin",
    "exchange_of",
    "message",
    "plan",
    "receive",
    "refuse_non_finite",
    "send",
    "train",
]
