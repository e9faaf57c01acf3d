"""The ServerApp of `thinwire submit`: a recipe from the run's settings, played from where its directory stands."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

from flwr.app import Context
from flwr.common import log
from flwr.serverapp import Grid, ServerApp

from thinwire.config import from_dict
from thinwire.federation.drive import drive
from thinwire.federation.server import open_run
from thinwire.federation.settings import Rules
from thinwire.flower.grid import GridTransport
from thinwire.report.live import silence_libraries
from thinwire.settings import ConfigError, build
from thinwire.simulation.directory import RunDirectory
from thinwire.simulation.rounds import RunStopped

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run to the end. A failure ends the process, and Flower's run with it; the run directory says how far it came."""
    silence_libraries()
    settings = context.run_config
    recipe = from_dict(json.loads(str(settings["recipe"])))
    rules = build(Rules, json.loads(str(settings["rules"])), "rules")
    directory = RunDirectory(Path(str(settings["output"])))

    def tell(text: str) -> None:
        log(logging.INFO, "thinwire: %s", text)
        with (directory.path / "run.log").open("a") as stream:
            stream.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")

    coordinator = open_run(recipe, directory, rules, tell)
    try:
        drive(coordinator, GridTransport(grid), recipe.federation.rounds)
    except (RunStopped, ConfigError) as error:
        tell(f"stopped: {error}")
        raise
