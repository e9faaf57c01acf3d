"""A run that was stopped at any moment ends where the straight run ends, to the last bit."""

from __future__ import annotations

import builtins
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch

from tests.simulation.conftest import ROUNDS, perform, resumed, timeless
from thinwire.session.loaded import open_session
from thinwire.session.opened import method_of
from thinwire.settings import ConfigError
from thinwire.simulation.federated import federated
from thinwire.storage import checkpoint
from thinwire.storage.directory import RunDirectory

TOUCHES = (
    (os, "replace"),
    (os, "fsync"),
    (shutil, "rmtree"),
    (safetensors.torch, "save_file"),
    (Path, "write_bytes"),
    (Path, "unlink"),
)


class Killed(BaseException):
    """Stands in for SIGKILL: nothing in the code may catch it and tidy up."""


def killed_at(monkeypatch: pytest.MonkeyPatch, moment: int) -> list[str]:
    """Die at the `moment`-th call that touches the disk; what was called until then."""
    calls: list[str] = []

    def watch(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def watched(*args: object, **kwargs: object) -> object:
            calls.append(name)
            if len(calls) == moment:
                if name in ("save_file", "write_bytes"):
                    with open(str(args[name == "save_file"]), "wb") as half:
                        half.write(b"half a file")
                raise Killed
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)

    for owner, name in TOUCHES:
        watch(owner, name)
    return calls


@pytest.mark.parametrize(
    "which", ["of each kind", pytest.param("every eleventh", marks=[pytest.mark.slow, pytest.mark.long])]
)
def test_a_kill_at_any_touch_of_the_disk_loses_nothing(quick, straight_quick, tmp_path, monkeypatch, which):
    """The middle one of each kind of call that touches the disk, or every eleventh call of a whole run."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        calls = _play_until(patch, quick, tmp_path / "whole", 10**9)
    assert set(calls) == {name for _, name in TOUCHES}
    chosen = [middle(calls, name) for name in sorted(set(calls))]
    for moment in chosen if which == "of each kind" else range(4, len(calls), 11):
        with monkeypatch.context() as patch:
            _play_until(patch, quick, folder, moment)
        assert checkpoint.checkpoints(folder / "checkpoint") or moment < 40
        resumed(folder).same_as(straight_quick)
        shutil.rmtree(folder)


def middle(calls: list[str], name: str) -> int:
    """The number, from 1, of the middle call of a name."""
    at = [number for number, call in enumerate(calls, 1) if call == name]
    return at[len(at) // 2]


def _play_until(patch, recipe, folder, moment):
    calls = killed_at(patch, moment)
    try:
        perform(recipe, folder)
    except Killed:
        assert len(calls) == moment
    return calls


def test_many_kills_in_one_run(quick, straight_quick, tmp_path, monkeypatch):
    folder, kills = tmp_path / "run", 0
    with monkeypatch.context() as patch:
        _play_until(patch, quick, folder, 15)
    for moment in (12, 9, 14):
        with monkeypatch.context() as patch:
            killed_at(patch, moment)
            with pytest.raises(Killed):
                resumed(folder)
            kills += 1
    assert kills == 3
    resumed(folder).same_as(straight_quick)


def test_more_rounds_continue_the_same_schedule(half, straight_quick):
    more = resumed(half, ROUNDS)
    assert more.adapter == straight_quick.adapter
    assert timeless(more.directory) == timeless(straight_quick.directory)
    assert more.summary["bytes_up"] == straight_quick.summary["bytes_up"]
    assert more.summary["bytes_down"] == straight_quick.summary["bytes_down"]


def test_more_rounds_keep_the_horizon_they_began_with(recipe, tmp_path):
    """2 rounds, then 4: the schedule ended at 2, as in a straight run of 4 with that horizon."""
    changes = {"run": {"references": False, "evaluate_every": 0}}
    perform(recipe(federation={"rounds": 2}, **changes), tmp_path / "short")
    later = resumed(tmp_path / "short", 4)
    want = perform(recipe(federation={"rounds": 4}, train={"horizon": 2}, **changes), tmp_path / "long")
    assert later.adapter == want.adapter
    assert later.directory.recipe().train.horizon == 2
    assert later.directory.recipe().federation.rounds == 4
    other = perform(recipe(federation={"rounds": 4}, **changes), tmp_path / "other")
    assert other.adapter != want.adapter


def test_fewer_rounds_are_refused(half):
    with pytest.raises(ConfigError, match="--rounds 1: allowed is at least 2"):
        resumed(half, 1)


def test_a_finished_run_resumed_is_the_same_run(half):
    before = {path: path.read_bytes() for path in (half / "adapter").iterdir()}
    metrics = (half / "metrics.jsonl").read_text()
    resumed(half)
    assert {path: path.read_bytes() for path in (half / "adapter").iterdir()} == before
    assert (half / "metrics.jsonl").read_text() == metrics


@pytest.mark.parametrize("damage", ["flipped", "cut", "no manifest", "empty manifest", "older format", "no tensors"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(damage, half, straight_quick):
    newest = checkpoint.checkpoints(half / "checkpoint")[-1]
    spoil(newest, damage)
    done = resumed(half, ROUNDS)
    assert done.adapter == straight_quick.adapter
    (warning,) = done.notes.warnings
    assert "000002" in warning
    assert "continuing from round 2" in warning
    if damage == "newer format":
        assert f"format 99, this version reads {checkpoint.FORMAT}" in warning


def spoil(folder: Path, damage: str) -> None:
    manifest, tensors = folder / "manifest.json", folder / "server.safetensors"
    if damage == "flipped":
        content = bytearray(tensors.read_bytes())
        content[-5] ^= 1
        tensors.write_bytes(content)
    elif damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:1000])
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "empty manifest":
        manifest.write_text("")
    elif damage == "newer format":
        manifest.write_text(manifest.read_text().replace(f'"format": {checkpoint.FORMAT}', '"format": 99'))
    else:
        tensors.unlink()


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_client_file_is_named_and_the_checkpoint_before_is_used(damage, half, straight_quick):
    newest, before = checkpoint.checkpoints(half / "checkpoint")[::-1]
    name, file = next((name, file) for name, file in held(newest).items() if file not in held(before).values())
    path = half / "checkpoint" / "clients" / file
    if damage == "gone":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content if damage == "flipped" else content[:-7])
    done = resumed(half, ROUNDS)
    assert done.adapter == straight_quick.adapter
    assert timeless(done.directory) == timeless(straight_quick.directory)
    (warning,) = done.notes.warnings
    reason = "it is missing" if damage == "gone" else "its checksum does not match"
    assert f"checkpoint 000002: client {name}: its file {path} is damaged: {reason}; continuing" in warning


def held(folder: Path) -> dict[str, str]:
    """The file of each client by the manifest of a checkpoint."""
    clients = json.loads((folder / "manifest.json").read_text())["clients"]
    return {name: f"{client['sha256']}.safetensors" for name, client in clients.items() if client["sha256"]}


def test_without_a_good_checkpoint_the_error_names_each(half):
    for folder, damage in zip(checkpoint.checkpoints(half / "checkpoint"), ("flipped", "no manifest"), strict=True):
        spoil(folder, damage)
    with pytest.raises(checkpoint.CheckpointError, match=r"000002.*000001: damaged"):
        resumed(half, ROUNDS)


def test_a_run_that_never_saved_begins_again(quick, straight_quick, tmp_path):
    RunDirectory(tmp_path / "run").begin(quick)
    resumed(tmp_path / "run").same_as(straight_quick)


def test_what_an_optimizer_knew_is_resumed_too(recipe, tmp_path):
    """A kept optimizer changes the result, so the resumed runs above do restore its state."""
    kept, fresh = (
        perform(recipe(train={"keep_optimizer": keep}, run={"references": False}), tmp_path / str(keep))
        for keep in (True, False)
    )
    assert kept.adapter != fresh.adapter


def test_a_run_with_drop_outs_resumes_exactly(recipe, tmp_path, monkeypatch):
    config = {"rounds": 4, "drop": 0.4, "first_round": {"gamma": 3}, "clients_per_round": 2}
    made = recipe(federation=config, run={"references": False}, method={"name": "fedit"})
    want = perform(made, tmp_path / "straight")
    with monkeypatch.context() as patch:
        _play_until(patch, made, tmp_path / "run", 30)
    resumed(tmp_path / "run").same_as(want)


def test_many_clients_of_which_few_take_part_resume_exactly(many, straight_many, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    for moment in (43, 82):
        with monkeypatch.context() as patch:
            _play_until(patch, many, folder, moment)
        resumed(folder).same_as(straight_many)
        shutil.rmtree(folder)


def test_local_training_resumes_exactly(recipe, tmp_path, monkeypatch):
    made = recipe(method={"name": "local"})
    perform(made, tmp_path / "straight")
    with monkeypatch.context() as patch:
        _play_until(patch, made, tmp_path / "run", 25)
    resumed(tmp_path / "run")
    for owner in ("alpha", "beta", "gamma"):
        name = Path("adapter") / owner / "adapter_model.safetensors"
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_a_checkpoint_holds_no_pickle(half):
    for path in (half / "checkpoint").rglob("*"):
        assert path.is_dir() or path.name == "manifest.json" or path.suffix == ".safetensors"
    assert builtins.open is open


def test_runs_of_one_seed_have_ids_of_their_own(recipe):
    """The id follows from all that a round is computed from, so more rounds are the same run."""
    session = open_session(recipe())

    def run_of(**changes):
        ours = recipe(**changes)
        return federated(replace(session, recipe=ours), method_of(ours)).run

    first = run_of()
    assert first == run_of(federation={"rounds": 2 * ROUNDS}, train={"horizon": ROUNDS})
    assert first not in (session.recipe.run.seed, run_of(train={"learning_rate": 0.5}), run_of(run={"seed": 99}))
