"""The least that a Flower app can do: a node sends back what it got, and imports nothing for it."""

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from stamps import stamped_client

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    number = int(message.content["config"]["server-round"])
    stamped_client(context, "called", number)
    metrics = MetricRecord({"num-examples": 1})
    content = RecordDict({"arrays": message.content["arrays"], "metrics": metrics})
    stamped_client(context, "done", number)
    return Message(content, reply_to=message)
