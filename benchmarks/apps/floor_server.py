"""The least that a Flower app can do: FedAvg of one small array."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from stamps import Clock, play

app = ServerApp()


class Timed(Clock, FedAvg):
    pass


@app.main()
def main(grid: Grid, context: Context) -> None:
    nodes = int(context.run_config["nodes"])
    strategy = Timed(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
    play(strategy, context, grid, ArrayRecord({"x": Array(np.zeros((8, 8), np.float32))}))
