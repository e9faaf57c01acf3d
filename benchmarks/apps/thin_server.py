"""The same server with thinwire's Strategy."""

from pathlib import Path

import payload
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from stamps import Clock, play

from thinwire.federation.settings import Rules
from thinwire.flower import Strategy
from thinwire.methods import create

app = ServerApp()


class Timed(Clock, Strategy):
    pass


@app.main()
def main(grid: Grid, context: Context) -> None:
    settings = context.run_config
    rules = Rules(quorum=int(settings["nodes"]))
    folder = Path(str(settings["output"])) / "run"
    strategy = Timed(create(str(settings["method"])), folder, scale=2.0, rules=rules, evaluate_every=0)
    play(strategy, context, grid, ArrayRecord(payload.initial(Path(str(settings["shapes"])))))
