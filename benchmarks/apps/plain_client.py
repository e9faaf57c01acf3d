"""FedIT over Flower alone, a node's side: the whole adapter in bfloat16 comes, and goes back."""

import payload
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from stamps import stamped_client

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    number = int(message.content["config"]["server-round"])
    stamped_client(context, "called", number)
    tensors = payload.floats(message.content["arrays"])
    arrays = payload.bits(payload.trained(tensors, context.node_id, number))
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
    stamped_client(context, "done", number)
    return Message(content, reply_to=message)
