"""Clients that diverge, disks that fill up, and users who press Ctrl-C."""

from __future__ import annotations

import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import thinwire
from tests.simulation.conftest import MANY, ROUNDS, Done, perform, results, resumed, timeless, write_toml
from thinwire.cli import main
from thinwire.engine.rounds import AllUploadsRefused
from thinwire.randomness import derive
from thinwire.session import loaded as session
from thinwire.storage import checkpoint
from thinwire.storage.directory import RunDirectory
from thinwire.training.trainer import Trainer

HINT = "Continue with: thinwire run --resume "


def diverging(monkeypatch: pytest.MonkeyPatch, owners: tuple[str, ...], since: int, seed: int = 3) -> None:
    """From round `since` on, these owners' training ends in NaN."""
    seeds = {derive(seed, "train", owner) for owner in owners}

    class Diverging(Trainer):
        def train(self, jobs):
            done = super().train(jobs)
            bad = [job.seed in seeds and job.round >= since for job in jobs]
            return [replace(one, loss=math.nan) if lost else one for one, lost in zip(done, bad, strict=True)]

    monkeypatch.setattr(session, "Trainer", Diverging)


def test_a_client_that_diverges_is_refused_and_the_round_goes_on(quick, straight_quick, tmp_path, monkeypatch):
    diverging(monkeypatch, ("beta",), since=1)
    done = perform(quick, tmp_path / "run")
    lines = [line for line in done.directory.lines() if "client" in line]
    refused = [line for line in lines if line["status"] != "counted"]
    assert [(line["round"], line["client"]) for line in refused] == [(n, "beta") for n in range(2, ROUNDS + 1)]
    assert {line["status"] for line in refused} == {"refused: the loss is not finite"}
    assert all(line["loss"] is None and line["bytes_up"] == 0 for line in refused)
    assert done.summary["rounds"] == ROUNDS
    assert done.adapter != straight_quick.adapter


def test_when_all_are_refused_the_run_stops_and_the_last_checkpoint_stays(quick, straight_quick, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        diverging(patch, ("alpha", "beta", "gamma"), since=2)
        with pytest.raises(AllUploadsRefused, match=r"round 3: .*alpha: the loss is not finite; beta: .*; gamma: "):
            perform(quick, tmp_path / "run")
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "run" / "checkpoint")] == ["000001", "000002"]
    resumed(tmp_path / "run").same_as(straight_quick)


def test_the_command_says_who_diverged_and_how_to_go_on(half, monkeypatch, capsys):
    diverging(monkeypatch, ("alpha", "beta", "gamma"), since=2)
    assert main(["run", "--resume", str(half), "--rounds", str(ROUNDS)]) == 1
    shown = capsys.readouterr().err
    assert "note: round 3: alpha refused: the loss is not finite" in shown
    assert f"{HINT}{half}" in shown
    assert "Traceback" not in shown


def test_a_learning_rate_that_is_too_large_is_no_traceback(settings, tmp_path, capsys):
    path = write_toml(tmp_path / "r.toml", settings)
    changes = ["--set", "train.learning_rate=1e30", "--set", "train.schedule='constant'", "--set", "train.warmup=0"]
    assert main(["run", str(path), *changes, "--output", str(tmp_path / "run")]) == 1
    shown = capsys.readouterr().err
    assert "no upload could be used" in shown or "no good" in shown
    assert "Traceback" not in shown


def test_ctrl_c_ends_with_130_and_a_hint_that_works(settings, straight_quick, tmp_path, monkeypatch, capsys):
    from thinwire.simulation import run as module

    real, rounds = module.play, []

    def play(federation, state, record):
        if state.round == 2:
            raise KeyboardInterrupt
        rounds.append(state.round)
        return real(federation, state, record)

    path, output = write_toml(tmp_path / "r.toml", settings), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(module, "play", play)
        assert main(["run", str(path), "--set", "run.references=false", "--output", str(output)]) == 130
    assert rounds == [0, 1]
    assert capsys.readouterr().err.endswith(f"{HINT}{output}\n")
    assert main(["run", "--resume", str(output), "--json"]) == 0
    assert (output / "adapter" / "adapter_model.safetensors").read_bytes() == straight_quick.adapter
    assert timeless(RunDirectory(output)) == timeless(straight_quick.directory)


@pytest.mark.parametrize("kilobytes", [1, 20])
def test_a_full_disk_is_named_and_the_last_checkpoint_can_be_resumed(half, straight_quick, capsys, kilobytes):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = sum(path.stat().st_size for path in (half / "checkpoint" / "000002").iterdir())
    assert size > 20_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1000, hard))
    try:
        code = main(["run", "--resume", str(half), "--rounds", str(ROUNDS)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    shown = capsys.readouterr().err
    assert code == 1
    assert "File too large" in shown
    assert str(half) in shown
    assert f"{HINT}{half}" in shown
    assert "Traceback" not in shown
    done = resumed(half, ROUNDS)
    assert done.adapter == straight_quick.adapter
    assert timeless(done.directory) == timeless(straight_quick.directory)


def test_all_checkpoints_damaged_is_a_clear_error(half, capsys):
    for path in (half / "checkpoint").rglob("server.safetensors"):
        path.write_bytes(b"")
    before = sorted(half.rglob("*"))
    assert main(["run", "--resume", str(half), "--rounds", str(ROUNDS)]) == 1
    shown = capsys.readouterr().err
    assert shown.splitlines()[-1].startswith(f"thinwire: no checkpoint in {half} can be used: 000002: damaged")
    assert "Traceback" not in shown
    assert sorted(half.rglob("*")) == before


def test_a_client_file_damaged_in_mid_run_is_named_and_the_run_can_go_on(half, straight_quick, monkeypatch, capsys):
    from thinwire.simulation import run as module

    real = module.play

    def play(federation, state, record):
        if state.round == 3:
            state.clients.saved["beta"].file.write_bytes(b"")
        return real(federation, state, record)

    with monkeypatch.context() as patch:
        patch.setattr(module, "play", play)
        assert main(["run", "--resume", str(half), "--rounds", str(ROUNDS)]) == 1
    shown = capsys.readouterr().err
    assert f"thinwire: client beta: its file {half / 'checkpoint' / 'clients'}" in shown
    assert shown.endswith(f"is damaged: its checksum does not match\nThe last good checkpoint is kept. {HINT}{half}\n")
    done = resumed(half, ROUNDS)
    assert "checkpoint 000003: client beta: " in done.notes.warnings[0]
    assert done.adapter == straight_quick.adapter
    assert timeless(done.directory) == timeless(straight_quick.directory)


def test_a_model_that_is_gone_is_named_on_resume(half, capsys):
    config = half / "config.json"
    config.write_text(config.read_text().replace("/model", "/model-that-moved"))
    assert main(["run", "--resume", str(half), "--rounds", str(ROUNDS)]) == 2
    assert "model.name" in capsys.readouterr().err.splitlines()[-1]


def started(recipe: Path | None, folder: Path) -> subprocess.Popen[str]:
    """`thinwire run` as a process of its own, which hears SIGINT also where the tests run in the background."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(thinwire.__file__).parents[1])}
    what = [str(recipe), "--set", "run.references=false", "--output"] if recipe else ["--resume"]
    return subprocess.Popen(
        [sys.executable, "-m", "thinwire.cli", "run", *what, str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for_rounds(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Until `count` checkpoints' rounds are done, or the process ended."""
    limit = time.monotonic() + 120
    while process.poll() is None and not (folder / "checkpoint" / f"{count:06d}").exists():
        assert time.monotonic() < limit, "the run does not move"
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("more", [{}, MANY], ids=["three", "many"])
def test_sigkill_at_random_points_of_a_real_process(settings, recipe, tmp_path, more):
    rounds = {"federation": {**more.get("federation", {}), "rounds": 30}, "run": {"evaluate_every": 5}}
    changes = {**more, **rounds}
    table = {name: {**values, **changes.get(name, {})} for name, values in settings.items()}
    path, folder = write_toml(tmp_path / "r.toml", table), tmp_path / "killed"
    moments = random.Random(os.getpid())
    for at in (1, 12):
        process = started(path if at == 1 else None, folder)
        wait_for_rounds(process, folder, at)
        time.sleep(moments.random() * 0.2)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.communicate()
    last = started(None, folder)
    _, shown = last.communicate(timeout=240)
    assert last.returncode == 0, shown
    changes["run"]["references"] = False
    straight = perform(recipe(**changes), tmp_path / "straight")
    directory = RunDirectory(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert results(summary) == json.loads(json.dumps(results(straight.summary)))
    Done(directory, straight.summary, straight.notes).same_as(straight)


@pytest.mark.slow
@pytest.mark.long
def test_sigint_to_a_real_process(settings, tmp_path):
    many = {**settings, "federation": {"rounds": 400}}
    folder = tmp_path / "run"
    process = started(write_toml(tmp_path / "r.toml", many), folder)
    wait_for_rounds(process, folder, 2)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    assert shown.rstrip().endswith(f"{HINT}{folder}")
    assert "Traceback" not in shown
    shutil.rmtree(folder)
