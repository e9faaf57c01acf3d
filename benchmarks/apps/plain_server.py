"""FedIT over Flower alone, the server's side: Flower's FedAvg, with a mean that knows bfloat16."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import payload
import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from stamps import Clock, play

app = ServerApp()


class Mean(FedAvg):
    """Every node, every round, nobody evaluated."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        good, failed = self._check_and_log_replies(replies, is_train=True, validate=False)
        if failed or not good:
            raise RuntimeError(f"round {server_round}: {len(failed)} nodes failed")
        total: payload.Tensors = {}
        for reply in good:
            for name, tensor in payload.floats(reply.content["arrays"]).items():
                total[name] = total.get(name, torch.zeros_like(tensor)).add_(tensor, alpha=1 / len(good))
        return payload.bits(total), None


class Timed(Clock, Mean):
    pass


@app.main()
def main(grid: Grid, context: Context) -> None:
    nodes = int(context.run_config["nodes"])
    strategy = Timed(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
    arrays: ArrayRecord = payload.bits(payload.initial(Path(str(context.run_config["shapes"]))))
    play(strategy, context, grid, arrays)
