"""What README and docs say exists: commands, options, settings, recipes, files; and the main command runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from thinwire import cli
from thinwire.config import from_dict, load_recipe
from thinwire.federation.settings import load_site
from thinwire.session.opened import method_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def marked(name: str) -> str:
    """The command after a marker, as .ci/run finds it: the second line after it."""
    lines = README.splitlines()
    return lines[lines.index(f"<!-- command: {name} -->") + 2]


def calls(text: str) -> list[list[str]]:
    """Arguments of every call of thinwire in shell blocks and inline code; those with placeholders are left out."""
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    code = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += re.findall(r"`(thinwire [^`\n]+)`", code)
    found = [match[1] for line in lines for match in re.finditer(r"(?:^|/|&& )thinwire ([^&#\n]+)", line)]
    return [shlex.split(call) for call in found if not re.search(r"\b(RECIPE|DIR|FILE|NAME|KEY)\b", call)]


CALLS = [(name, call) for name, text in TEXTS.items() if name != "LOG.md" for call in calls(text)]
TABLES = {"project": "a package's own", "methods": "the end of a site's settings"}
"""Tables that no recipe has."""
RECIPES = [
    (name, block)
    for name, text in TEXTS.items()
    for block in blocks(text, "toml")
    if not TABLES.keys() & tomllib.loads(block).keys()
]


def test_the_first_screen_has_both_commands() -> None:
    first = README.splitlines()[:25]
    assert marked("run") in first
    assert marked("test") in first
    for command in (marked("run"), marked("test")):
        assert command.startswith("python3.11 -m venv .venv && .venv/bin/pip install")
        assert "-c constraints.txt" in command
    assert marked("run").endswith(".venv/bin/thinwire run")
    assert ".venv/bin/pytest" in marked("test")


def test_ci_runs_the_readme_command_and_no_pytest_of_its_own() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert re.search(r"^step .* readme test$.*^step .* readme long$", script, re.MULTILINE | re.DOTALL)
    assert "bin/pytest" not in script
    line = "grep -A 2 -F '<!-- command: test -->' README.md | tail -n 1"
    done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.rstrip("\n") == marked("test")
    assert marked("long") == marked("test").rpartition("&& ")[2] + " -m long"
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_some_calls_and_recipes_are_found() -> None:
    assert ("README.md", ["run"]) in CALLS
    assert sum(name == "README.md" for name, _ in CALLS) >= 6
    assert "README.md" in [name for name, _ in RECIPES]


def label(value: str | list[str]) -> str:
    """A test id."""
    return value.splitlines()[0] if isinstance(value, str) else shlex.join(value)


@pytest.mark.parametrize(("page", "call"), CALLS, ids=label)
def test_calls_parse_and_their_settings_exist(page: str, call: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if call in (["inspect"], ["federation"], ["federation", "init"]):
        assert help_of(*call, capsys=capsys)
        return
    if call[-1] in ("--help", "--version"):
        assert help_of(*call[:1], capsys=capsys)
        return
    options = cli.parser().parse_args(call)
    changes = list(getattr(options, "set", []))
    if getattr(options, "method", None):
        changes.append(f"method.name={options.method}")
    if not getattr(options, "resume", None) and "rolora" not in call and not any(":" in part for part in call):
        method_of(load_recipe(None, changes))


def test_options_in_inline_code_exist(capsys: pytest.CaptureFixture[str]) -> None:
    commands = ("run", "methods", "data", "inspect", "export", "search")
    known = "".join(help_of(command, capsys=capsys) for command in commands)
    for option in set(re.findall(r"`(--[a-z-]+)", README)):
        assert option in known, f"README names {option}"


def help_of(*command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The help text of a command."""
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.parser().parse_args([*(part for part in command if not part.startswith("-")), "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize(("page", "block"), RECIPES, ids=label)
def test_recipes_are_sound(page: str, block: str, tmp_path: Path) -> None:
    """And a site's settings, which have its name at the top."""
    if "name" not in tomllib.loads(block):
        method_of(from_dict(tomllib.loads(block)))
        return
    (tmp_path / "site.toml").write_text(block)
    load_site(tmp_path)


@pytest.mark.parametrize("name", sorted(PAGES))
def test_links_to_files_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", TEXTS[name]):
        if not re.match(r"\w+:", target):
            assert (PAGES[name].parent / target).exists(), f"{name} links to {target}"


def test_constraints_are_pins_of_the_cpu_build() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9a-zA-Z.]+", pin) for pin in pins)
    assert "torch==2.13.0" in pins
    assert not [pin for pin in pins if re.match(r"nvidia|cuda|triton", pin, re.IGNORECASE)]


@pytest.mark.slow
@pytest.mark.long
def test_the_main_command_ends_with_a_table_and_an_adapter(tmp_path: Path) -> None:
    small = ["federation.rounds=2", "train.steps=1", "train.batch=4", "run.threads=1"]
    small += ["data.train_limit=16", "data.test_limit=4"]
    assert shlex.split(marked("run"))[-2:] == [".venv/bin/thinwire", "run"]
    script = Path(sys.executable).with_name("thinwire")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "thinwire.cli"]
    command = [*program, "run", *(part for change in small for part in ("--set", change))]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for words in ("federated", "alone (mean)", "dense bfloat16 FedIT", "x less", "code", "medical", "finance", "math"):
        assert words in done.stdout
    directory = tmp_path / "runs/fedsrd-seed0"
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["rounds"] == 2
    assert (directory / "adapter/adapter_model.safetensors").is_file()
    lines = README.split("\nruns/fedsrd-seed0/\n")[1].split("```")[0].splitlines()
    present = {path.name + "/" * path.is_dir() for path in directory.iterdir()}
    assert {line.split()[0] for line in lines} - {"best/"} == present
