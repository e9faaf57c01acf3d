"""The same node with thinwire's mod: the function sees plain float32 arrays."""

import payload
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from stamps import stamped_client

from thinwire.flower import mod
from thinwire.methods import create


def thin(message, context, after):
    """thinwire's mod for the method that the run names, with its state in the site's folder."""
    stamped_client(context, "called", int(message.metadata.group_id or 0))
    around = mod(create(str(context.run_config["method"])), str(context.node_config["site"]))
    reply = around(message, context, after)
    stamped_client(context, "done", int(message.metadata.group_id or 0))
    return reply


app = ClientApp(mods=[thin])


@app.train()
def train(message: Message, context: Context) -> Message:
    number = int(message.content["config"]["server-round"])
    stamped_client(context, "asked to train", number)
    tensors = message.content["arrays"].to_torch_state_dict()
    arrays = ArrayRecord(payload.trained(tensors, context.node_id, number))
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1, "loss": 1.0})})
    stamped_client(context, "trained", number)
    return Message(content, reply_to=message)
