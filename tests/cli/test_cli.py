"""The command line: quick help, the list of methods, and no traceback for anything a user may type."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import thinwire as package
from thinwire import __version__
from thinwire.cli import main, parser
from thinwire.methods import METHODS, REFERENCES, create
from thinwire.presets import PRESETS
from thinwire.settings import APART

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(package.__file__).parents[1])}
HEAVY = ("torch", "transformers", "peft", "rich", "numpy", "matplotlib", "datasets", "safetensors")


def python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )


def thinwire(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return python("-m", "thinwire.cli", *arguments, folder=folder)


def test_help_imports_nothing_heavy(tmp_path):
    code = (
        "import sys, thinwire.cli; thinwire.cli.parser().format_help(); "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert python("-c", code, folder=tmp_path).stdout == "[]\n"


def test_a_bad_recipe_is_refused_before_anything_heavy_is_imported(tmp_path):
    code = (
        "import sys; from thinwire.cli import main; code = main(['run', '--set', 'train.steps=0']); "
        f"print(code, [n for n in {HEAVY} if n in sys.modules])"
    )
    assert python("-c", code, folder=tmp_path).stdout == "2 []\n"


@pytest.mark.parametrize("command", [[], ["run"], ["methods"], ["data"], ["inspect"]])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: thinwire")
    if command in ([], ["run"]):
        assert "--resume" in shown
        assert "thinwire run --method fedit" in shown


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"thinwire {__version__}\n"


def test_methods_for_programs(capsys):
    assert main(["methods", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(listed) == [*METHODS, *PRESETS, *REFERENCES]
    for name, entry in listed.items():
        method = create(name)
        assert (entry["title"], entry["paper"]) == (method.title, method.paper)
        assert entry["summary"]
        for settings, shown in ((method, entry["fields"]), (method.values, entry["values"])):
            known = [spec for spec in dataclasses.fields(settings) if APART not in spec.metadata]
            assert [field["name"] for field in shown] == [spec.name for spec in known]
            for field, spec in zip(shown, known, strict=True):
                assert field["default"] == getattr(settings, spec.name)
                assert field["allowed"]
                assert field["meaning"] == spec.metadata["doc"]
    rate = next(field for field in listed["fedsrd"]["fields"] if field["name"] == "base_rate")
    assert rate["allowed"] == "a number >= 0 and < 1"


def test_methods_for_people(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["methods"]) == 0
    shown = capsys.readouterr().out
    for name, method in {**METHODS, **REFERENCES}.items():
        assert name in shown
        assert method.paper in shown
        assert all(spec.name in shown for spec in dataclasses.fields(method) if APART not in spec.metadata)
    assert all(name in shown for name in (*PRESETS, "bits_up", "scale_per"))


def test_a_reader_that_closes_early_is_no_error(tmp_path):
    code = f"set -o pipefail; {sys.executable} -m thinwire.cli methods --json | head -n 1"
    done = subprocess.run(
        ["bash", "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert done.stderr == ""
    assert done.stdout == "[\n"


BAD = {
    "unknown method": (["run", "--method", "fedsdr"], "did you mean fedsrd?"),
    "unknown field": (["run", "--set", "method.base_rat=1"], "did you mean base_rate?"),
    "field out of range": (["run", "--set", "method.base_rate=1"], "base_rate = 1"),
    "field of another method": (["run", "--method", "fedit", "--set", "method.base_rate=.5"], "base_rate is unknown"),
    "no recipe": (["run", "absent.toml"], "no such file"),
    "negative seed": (["run", "--seed", "-1"], "run.seed = -1"),
    "no rounds": (["run", "--rounds", "0"], "federation.rounds = 0"),
    "resume nothing": (["run", "--resume", "nowhere"], "no run there"),
    "resume with a recipe": (["run", "r.toml", "--resume", "nowhere"], "not recipe"),
    "resume with a change": (["run", "--resume", "nowhere", "--set", "train.steps=1"], "not --set"),
    "resume with a seed": (["run", "--resume", "nowhere", "--seed", "1"], "not seed"),
    "output is a file": (["run", "--output", "file"], "file"),
    "output is taken": (["run", "--output", "full"], "exists and is not empty"),
    "no such model": (["run", "--set", "model.name=./nowhere"], "model.name"),
    "no such data": (["run", "--set", "data.source=./nowhere"], "data.source"),
    "no such device": (["run", "--set", "run.device=toaster"], "run.device"),
    "no such CUDA device": (["run", "--set", "run.device=cuda:99"], "run.device"),
    "no such target": (["run", "--set", "lora.targets=['q_porj']"], "lora.targets"),
    "rank too large": (["run", "--set", "lora.rank=100000"], "lora.rank"),
    "no such client": (["run", "--set", "federation.first_round.nobody=1"], "federation.first_round.nobody"),
    "sequence too short": (["run", "--set", "data.max_length=8"], "data.max_length"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    return tmp_path


SMALL = [
    "--set",
    "data.train_limit=4",
    "--set",
    "data.test_limit=2",
    "--set",
    "train.steps=1",
    "--set",
    "federation.rounds=1",
    "--set",
    "run.references=false",
]


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named_in_one_line(what, folder, capsys, monkeypatch):
    arguments, words = BAD[what]
    monkeypatch.chdir(folder)
    small = [] if "--resume" in arguments or "--rounds" in arguments else SMALL
    before = sorted(folder.rglob("*"))
    assert main([*arguments, *small]) == (1 if what == "output is a file" else 2)
    shown = capsys.readouterr().err
    last = shown.strip().splitlines()[-1]
    assert last.startswith("thinwire: ")
    assert words in last
    assert "Traceback" not in shown
    assert sorted(folder.rglob("*")) == before, "nothing is written for a run that cannot begin"


@pytest.mark.parametrize("what", ["unknown field", "no recipe"])
def test_no_traceback_in_a_real_process(what, folder):
    done = thinwire(*BAD[what][0], folder=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("thinwire: ")
    assert BAD[what][1] in done.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["run", "--sed", "1", "--x"], ["run", "--rounds", "many"], ["inspect"]]
)
def test_usage_errors_say_how_to(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: thinwire" in capsys.readouterr().err


def test_damaged_runs_are_named(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{")
    assert main(["run", "--resume", str(tmp_path)]) == 2
    assert "is damaged" in capsys.readouterr().err
    for text in ("[]", "3", "null", '{"train": {"steps": 0}}', '{"method": {"name": "fedsrd", "x": 1}}'):
        (tmp_path / "config.json").write_text(text)
        assert main(["run", "--resume", str(tmp_path)]) == 2
        assert capsys.readouterr().err.startswith("thinwire: ")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    assert main(["run", "--resume", str(tmp_path)]) == 2


def test_a_stop_while_loading_says_no_more_than_it_must(monkeypatch, capsys):
    import thinwire.report.methods

    def stopped() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(thinwire.report.methods, "print_methods", stopped)
    assert main(["methods"]) == 130
    assert capsys.readouterr().err == "thinwire: interrupted\n"


def test_resume_takes_only_more_rounds():
    options = parser().parse_args(["run", "--resume", "here", "--rounds", "9"])
    assert options.resume == Path("here")
    assert options.rounds == 9


def test_data_shows_who_holds_what(tmp_path, capsys):
    picture = tmp_path / "who.png"
    small = ["--set", "data.train_limit=6", "--set", "data.test_limit=2", "--picture", str(picture)]
    assert main(["data", *small, "--set", "data.partition=iid", "--set", "data.count=3"]) == 0
    shown = capsys.readouterr().out
    assert all(f"client-{index}" in shown for index in range(3))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_data_with_no_usable_example_is_named(capsys):
    assert main(["data", "--set", "data.max_length=8", "--set", "data.train_limit=4"]) == 2
    assert "data.max_length" in capsys.readouterr().err


def test_inspect_names_what_it_cannot_read(tmp_path, capsys):
    (tmp_path / "junk").write_bytes(b"no payload at all")
    for name, code in (("junk", 2), ("absent", 1), (".", 1)):
        assert main(["inspect", str(tmp_path / name)]) == code
        shown = capsys.readouterr().err
        assert shown.startswith("thinwire: ")
        assert str(tmp_path / name) in shown
        assert shown.count("\n") == 1
