"""The ServerApp of `thinwire federation submit`: the recipe of a run directory, played from where that stands."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

from flwr.app import Context
from flwr.common import log
from flwr.serverapp import Grid, ServerApp

from thinwire.engine.rounds import Diverged, RunStopped
from thinwire.federation.drive import drive
from thinwire.federation.server import open_run
from thinwire.federation.settings import Rules
from thinwire.flower.going import HOPELESS, playing
from thinwire.flower.grid import GridTransport
from thinwire.report.live import silence_libraries
from thinwire.settings import ConfigError, build
from thinwire.storage.directory import RunDirectory

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run to the end. A failure ends the process, and Flower's run with it; the run directory says how far it came."""
    silence_libraries()
    settings = context.run_config
    rules = build(Rules, json.loads(str(settings["rules"])), "rules")
    directory = RunDirectory(Path(str(settings["output"])))
    recipe = directory.recipe()

    def note(text: str) -> None:
        log(logging.INFO, "thinwire: %s", text)
        with (directory.path / "run.log").open("a") as stream:
            stream.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")

    with playing(directory.path):
        try:
            coordinator = open_run(recipe, directory, rules, note)
            drive(coordinator, GridTransport(grid), recipe.federation.rounds)
        except (RunStopped, ConfigError) as error:
            note(f"stopped: {error}")
            if isinstance(error, Diverged | ConfigError):
                (directory.path / HOPELESS).write_text(str(error))
            raise
