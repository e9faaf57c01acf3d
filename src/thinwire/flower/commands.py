"""`thinwire federation ...`: one command for each machine. Flower is imported only by the command that needs it."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from thinwire.settings import ConfigError

if TYPE_CHECKING:
    from thinwire.config import Recipe
    from thinwire.flower.folder import ServerFolder
    from thinwire.storage.directory import RunDirectory

T = TypeVar("T")

EPILOG = """a federation of three machines:
  thinwire federation init hospitals --address server.example:8443 --sites north south
  # carry hospitals/server to the server, hospitals/sites/north to north, ...; keep hospitals/ca offline
  thinwire federation serve hospitals/server                  on the server
  thinwire federation join hospitals/sites/north              at each site
  thinwire federation submit hospitals/server recipe.toml     on the server
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command and what follows it."""
    top = commands.add_parser(
        "federation",
        help="the same recipe across machines, over Flower",
        description="A federation across machines, over Flower (needs the extra: pip install 'thinwire[flower]').",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = top.add_subparsers(title="actions", required=True, metavar="ACTION")
    init = actions.add_parser("init", help="write certificates, keys, settings and units, a folder for each machine")
    init.add_argument("folder", type=Path, metavar="DIR")
    init.add_argument("--address", required=True, metavar="HOST:PORT", help="by which sites reach the server")
    init.add_argument("--sites", nargs="+", required=True, metavar="NAME")
    init.add_argument("--name", help="of the federation; none: the folder's")
    init.add_argument("--host", default="0.0.0.0", help="the server's interface to listen on (0.0.0.0: all)")
    init.add_argument("--port", type=int, default=0, help="to listen on; none: that of the address")
    init.add_argument("--recipe", type=Path, metavar="RECIPE.toml", help="none: the embedded default")
    init.set_defaults(run=run_init)
    serve = actions.add_parser("serve", help="run the server, in the foreground")
    serve.add_argument("folder", type=Path, metavar="SERVER_DIR")
    serve.set_defaults(run=run_serve)
    join = actions.add_parser("join", help="run a site, in the foreground")
    join.add_argument("folder", type=Path, metavar="SITE_DIR")
    join.set_defaults(run=run_join)
    submit = actions.add_parser("submit", help="start a run of a recipe, or go on with one")
    submit.add_argument("folder", type=Path, metavar="SERVER_DIR")
    submit.add_argument("recipe", nargs="?", type=Path, metavar="RECIPE.toml", help="none: SERVER_DIR/recipe.toml")
    submit.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one setting")
    submit.add_argument("--output", type=Path, metavar="DIR", help="run directory; none: SERVER_DIR/runs/METHOD-seedN")
    submit.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in DIR")
    submit.add_argument(
        "--accept-changes",
        metavar="KIND[,KIND]",
        help="with --resume: go on though tokenizer, template, recipe or thinwire changed",
    )
    submit.set_defaults(run=run_submit)
    status = actions.add_parser("status", help="sites, runs and how far they are")
    status.add_argument("folder", type=Path, metavar="SERVER_DIR")
    status.add_argument("--json", action="store_true", help="for programs")
    status.set_defaults(run=run_status)
    stop = actions.add_parser("stop", help="end a run (on the server), or the resident trainer (at a site)")
    stop.add_argument("folder", type=Path, metavar="DIR")
    stop.add_argument("--run", dest="id", metavar="ID", help="Flower's id of the run; none: the newest that goes on")
    stop.set_defaults(run=run_stop)
    forget = actions.add_parser("forget", help="delete what a site keeps of a run; its log of what left it stays")
    forget.add_argument("folder", type=Path, metavar="SITE_DIR")
    forget.add_argument("--run", dest="id", metavar="NAME", help="the run's name in state/; none: all")
    forget.set_defaults(run=run_forget)


def needs_flower() -> None:
    """Raises: ConfigError if the extra is not installed."""
    if importlib.util.find_spec("flwr") is None:
        raise ConfigError("Flower is missing: install the extra, pip install 'thinwire[flower]'")


def run_init(options: argparse.Namespace) -> int:
    needs_flower()
    from thinwire.config import load_recipe
    from thinwire.flower.folder import Link, create

    if options.recipe:
        load_recipe(options.recipe)
    link = Link(options.name or options.folder.resolve().name, options.address, options.host, options.port)
    for path in create(options.folder, link, options.sites, options.recipe):
        print(f"{path}: thinwire federation {'serve' if path.name == 'server' else 'join'}")
    where = "every address of its machine" if link.host in ("0.0.0.0", "::") else link.host
    print(f"the server will listen on {where}, port {link.listening}: for nodes with one of these keys, by TLS, only")
    print(f"{options.folder / 'ca'}: keep it offline; who has it can pass for the server and sign apps that sites run")
    return 0


def run_serve(options: argparse.Namespace) -> int:
    needs_flower()
    from thinwire.flower.folder import open_server
    from thinwire.flower.going import Keeper
    from thinwire.flower.processes import serve

    server = open_server(options.folder)
    return serve(server, Keeper(server))


def run_join(options: argparse.Namespace) -> int:
    needs_flower()
    from thinwire.flower.processes import join

    return join(options.folder.resolve())


def run_submit(options: argparse.Namespace) -> int:
    needs_flower()
    from thinwire.flower.folder import open_server
    from thinwire.flower.going import begin
    from thinwire.identity import accepted_kinds
    from thinwire.report.live import silence_libraries
    from thinwire.storage.directory import RunDirectory

    silence_libraries()
    accepted = accepted_kinds(options.accept_changes)
    server = open_server(options.folder)
    if options.accept_changes and not options.resume:
        raise ConfigError("--accept-changes: allowed with --resume only")
    if options.resume:
        if options.recipe or options.set or options.output:
            raise ConfigError("--resume: the run has its recipe already; nothing else is allowed beside it")
        RunDirectory(options.resume).recipe()
        RunDirectory(options.resume).accept(accepted)
        print(f"run {told(lambda: begin(server, options.resume))}: {options.resume}")
        return 0
    directory = new_run(options, server)
    try:
        run = told(lambda: begin(server, directory.path))
    except BaseException:
        shutil.rmtree(directory.path)
        raise
    print(f"run {run}: {directory.path}")
    return 0


def new_run(options: argparse.Namespace, server: ServerFolder) -> RunDirectory:
    """The directory of a new run, with its recipe. Raises: ConfigError."""
    from thinwire.config import load_recipe
    from thinwire.federation.server import method_across
    from thinwire.simulation.run import checked
    from thinwire.storage.directory import RunDirectory, free_directory

    recipe = checked(load_recipe(options.recipe or server.path / "recipe.toml", options.set))
    name = f"{method_across(recipe).name}-seed{recipe.run.seed}"
    directory = RunDirectory(options.output or free_directory(name, server.path / "runs"))
    directory.begin(recipe)
    return directory


def run_status(options: argparse.Namespace) -> int:
    needs_flower()
    from thinwire.flower import control
    from thinwire.flower.folder import open_server
    from thinwire.flower.going import going

    server = open_server(options.folder)
    inside = {path.parent for path in (server.path / "runs").glob("*/config.json")}
    folders = sorted(inside | {Path(entry.output) for entry in going(server)})
    runs = told(lambda: control.runs(server))
    found = {
        "sites": told(lambda: control.nodes(server)),
        "runs": runs,
        "directories": [control.overview(path, runs) for path in folders],
    }
    if options.json:
        print(json.dumps(found, indent=1))
        return 0
    for node in found["sites"]:
        print(f"site {node['name']}: {node.get('status')}")
    for run in runs:
        print(f"run {run.get('run-id')}: {run.get('status')}")
    for entry in found["directories"]:
        print(f"{entry['run']}: {words(entry)}")
    return 0


def words(entry: Mapping[str, Any]) -> str:
    """How far a run is, what privacy has cost, and both counts of its bytes."""
    end = ", finished" if entry["finished"] else ""
    theirs = entry["flower"] or {}
    sizes = [
        f"{entry[key]:,} bytes {way}" + (f" (Flower: {theirs[key]:,})" if theirs else "")
        for key, way in (("bytes_up", "up"), ("bytes_down", "down"))
    ]
    cost = "" if entry["epsilon"] is None else f", epsilon {entry['epsilon']:.3g}"
    return f"round {entry['round']} of {entry['rounds']}{cost}{end}; {', '.join(sizes)}"


def run_stop(options: argparse.Namespace) -> int:
    from thinwire.federation import trainer
    from thinwire.flower import control
    from thinwire.flower.folder import SERVER, open_server
    from thinwire.flower.going import drop, going

    if not (options.folder / SERVER).exists():
        print("the trainer ends" if trainer.stop(options.folder) else "no trainer was running")
        return 0
    server = open_server(options.folder)
    runs = told(lambda: control.runs(server))
    active = [str(run["run-id"]) for run in runs if not str(run.get("status")).startswith("finished")]
    waiting = [entry.run for entry in reversed(going(server))]
    number = options.id or next(iter(active or waiting), None)
    if number is None:
        print("no run goes on")
        return 0
    drop(server, number)
    if number in active or number not in waiting:
        told(lambda: control.stop(server, number))
    print(f"run {number} is stopped; go on with: thinwire federation submit {options.folder} --resume RUN_DIR")
    return 0


def run_forget(options: argparse.Namespace) -> int:
    from thinwire.federation.settings import load_site
    from thinwire.federation.store import forget

    site = load_site(options.folder)
    for path in forget(site.folder, site.federation, options.id):
        print(f"deleted {path}")
    return 0


def run_simulated(options: argparse.Namespace, new: Recipe | None) -> int:
    """`thinwire run --engine flower`: a new recipe, or the run that the options name."""
    needs_flower()
    from thinwire.report.live import silence_libraries, watch

    silence_libraries()
    from thinwire.engine.rounds import RunStopped
    from thinwire.flower import simulation
    from thinwire.identity import accepted_kinds
    from thinwire.report.table import print_summary
    from thinwire.session.opened import method_of
    from thinwire.simulation.run import checked, longer
    from thinwire.storage.directory import RunDirectory, as_json, free_directory

    if new is None:
        directory = RunDirectory(options.resume)
        recipe = checked(longer(directory.recipe(), options.rounds))
        directory.write_recipe(recipe)
    else:
        recipe = checked(new)
        name = f"{method_of(recipe).name}-seed{recipe.run.seed}"
        directory = RunDirectory(Path(recipe.run.output) if recipe.run.output else free_directory(name))
        directory.check_free()
    try:
        with watch(directory.path, quiet=options.json) as watcher:
            summary = simulation.run(recipe, directory, watcher, accepted_kinds(options.accept_changes))
    except RunStopped as error:
        again = f"thinwire run --resume {directory.path} --engine flower"
        print(f"thinwire: {error}\nContinue with: {again}", file=sys.stderr)
        return 1
    print(as_json(summary, indent=1)) if options.json else print_summary(summary)
    return 0


def told(ask: Callable[[], T]) -> T:
    """What Flower answers; its refusal as an error of the command line."""
    from thinwire.flower.control import ControlError

    try:
        return ask()
    except ControlError as error:
        raise OSError(0, f"the server says: {error}") from None
