"""The files of clients: what is written, read, shared by checkpoints, deleted and found damaged."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import thinwire
from tests.laws.synthetic import bits, everything, federation, first, rounds, seeded, start_adapters
from thinwire.config import ServerConfig
from thinwire.engine import ClientState
from thinwire.randomness import derive
from thinwire.simulation.rounds import Federation, play
from thinwire.storage import checkpoint
from thinwire.storage.checkpoint import CheckpointError
from thinwire.storage.clients import ClientFiles, ClientStore, DamagedClient
from thinwire.storage.state import State

ROOT = Path(__file__).parents[2]


def full(seed: int, version: int = 3) -> ClientState:
    """A state in which every field holds something."""
    start = start_adapters()
    residual = {key: seeded(derive(seed, *key), *tensor.shape) for key, tensor in start.items()}
    moments = {"layer.0.up/a/exp_avg": seeded(seed, 2, 8), "step": torch.tensor(4.0)}
    return ClientState(version, {"own": start.put(residual)}, residual, moments)


def nobody() -> ClientStore:
    """The store before anyone took part."""
    return ClientStore(start_adapters(), {name: ClientFiles() for name in ("a", "b/c", "d")})


def files(folder: Path) -> dict[str, int]:
    """Client files of a checkpoint folder, with the inode that a rewritten file would change."""
    return {path.name: path.stat().st_ino for path in (folder / "clients").iterdir()}


def saved_rounds(federated: Federation, count: int, folder: Path) -> State:
    """`count` rounds, each followed by a checkpoint, as a run plays them."""
    state = first(federated)
    for _ in range(count):
        state = checkpoint.save(play(federated, state, lambda line: None), folder)
    return state


def test_a_client_that_never_took_part_is_empty_and_has_no_file(tmp_path):
    store = nobody().put({"a": full(1)}).write(tmp_path / "clients")
    assert bits(store["d"]) == bits(ClientState())
    assert store.version("d") is None
    assert list(store) == ["a", "b/c", "d"]
    assert len(files(tmp_path)) == 1
    with pytest.raises(KeyError):
        store["nobody"]


def test_what_is_written_is_read_again_to_the_last_bit(tmp_path):
    states = {"a": full(1), "b/c": full(2, version=5)}
    store = nobody().put(states)
    written = store.write(tmp_path / "clients")
    assert written.changed == {}
    assert bits(dict(written)) == bits({**states, "d": ClientState()}) == bits(dict(store))
    assert (written.version("a"), written.version("b/c")) == (3, 5)
    assert len(files(tmp_path)) == 2
    assert all(path.name.endswith(".safetensors") for path in (tmp_path / "clients").iterdir())


def test_a_client_that_keeps_only_a_version_has_no_file(tmp_path):
    store = nobody().put({"a": ClientState(7)}).write(tmp_path / "clients")
    assert files(tmp_path) == {}
    assert bits(store["a"]) == bits(ClientState(7))


def test_a_store_is_never_changed(tmp_path):
    old = nobody().put({"a": full(1)}).write(tmp_path / "clients")
    new = old.put({"a": full(2), "b/c": full(3)})
    new.write(tmp_path / "clients")
    assert bits(dict(old)) == bits({"a": full(1), "b/c": ClientState(), "d": ClientState()})
    assert bits(dict(new)) == bits({"a": full(2), "b/c": full(3), "d": ClientState()})


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "gone"])
def test_a_damaged_file_is_named_with_its_client(tmp_path, damage):
    store = nobody().put({"a": full(1), "b/c": full(2)}).write(tmp_path / "clients")
    path = store.saved["b/c"].file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"flipped": content[:-1] + b"?", "cut": content[:-1], "empty": b""}[damage])
    assert bits(store["a"]) == bits(full(1))
    reason = "it is missing" if damage == "gone" else "its checksum does not match"
    for look in (lambda: store["b/c"], store.verify):
        with pytest.raises(DamagedClient, match=f"^client b/c: its file {path} is damaged: {reason}$"):
            look()


@pytest.mark.parametrize("name", ["fedsrd", "fedit", "ffa-lora", "local"])
def test_a_run_whose_clients_live_in_files_is_the_run_in_memory(name, tmp_path):
    federated = federation((name, {}), 7, clients_per_round=3, drop=0.2)
    state = first(federated)
    for _ in range(6):
        state = play(federated, state, lambda line: None)
    assert everything(saved_rounds(federated, 6, tmp_path)) == everything(state)


def test_a_checkpoint_writes_only_what_changed_and_keeps_only_what_two_need(tmp_path):
    federated = federation(("fedsrd", {}), 12, clients_per_round=3)
    state, before = first(federated), {}
    for number in range(10):
        part: list[str] = []
        state = play(federated, state, lambda line, part=part: part.append(line["client"]))
        state = checkpoint.save(state, tmp_path)
        after = files(tmp_path)
        assert len(after.keys() - before.keys()) == len(part) == 3
        assert all(after[name] == before[name] for name in after.keys() & before.keys()), "a file was written again"
        manifests = [json.loads((path / "manifest.json").read_text()) for path in checkpoint.checkpoints(tmp_path)]
        assert [manifest["round"] for manifest in manifests] == [max(1, number), number + 1][-len(manifests) :]
        needed = {client["sha256"] for manifest in manifests for client in manifest["clients"].values()} - {None}
        assert {Path(name).stem for name in after} == needed
        before = after


@pytest.mark.long
def test_what_is_held_in_memory_does_not_grow_with_who_took_part(tmp_path):
    federated = federation(("fedsrd", {}), 40, clients_per_round=4)
    state, held = first(federated), []
    for _ in range(10):
        state = checkpoint.save(play(federated, state, lambda line: None), tmp_path)
        gc.collect()
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors_of(gc.get_objects())}
        held.append(sum(storages.values()))
    assert sum(state.clients.version(name) is not None for name in state.clients) > 20
    one = sum(tensor.nbytes for _, tensor in state.server.adapters.items())
    assert max(held[3:]) - min(held[3:]) < 2 * one


def tensors_of(objects: list[object]) -> list[torch.Tensor]:
    return [item for item in objects if type(item) is torch.Tensor]


def test_both_kept_checkpoints_can_be_read(tmp_path):
    federated = federation(("fedsrd", {}), 12, clients_per_round=3)
    straight = [saved_rounds(federated, count, tmp_path / str(count)) for count in (7, 8)]
    older, newer = checkpoint.checkpoints(tmp_path / "8")
    for path, want in ((older, straight[0]), (newer, straight[1])):
        got = checkpoint.read(path, start_adapters(), federated.seed, federated.run)
        assert everything(got) == everything(want)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_server_optimizer_resumes_exactly(optimizer, tmp_path):
    config = ServerConfig(optimizer=optimizer, learning_rate=0.1, momentum=0.9 if optimizer == "sgd" else 0.0)
    federated = replace(federation(("fedit", {}), 3), server=config)
    saved_rounds(federated, 2, tmp_path)
    state, problems = checkpoint.load(tmp_path, start_adapters(), federated.seed, federated.run)
    assert (problems, bool(state.server.moments)) == ([], True)
    want, _ = rounds(federated, 4)
    assert everything(rounds(federated, 2, state)[0]) == everything(want)


def test_what_a_kill_left_is_deleted_by_the_next_checkpoint(tmp_path):
    federated = federation(("fedsrd", {}), 4, clients_per_round=2)
    state = saved_rounds(federated, 2, tmp_path)
    (tmp_path / "clients" / ".abc.safetensors.writing").write_bytes(b"half")
    (tmp_path / "clients" / f"{'0' * 64}.safetensors").write_bytes(b"of a round that never became a checkpoint")
    (tmp_path / ".writing-000003").mkdir()
    checkpoint.save(play(federated, state, lambda line: None), tmp_path)
    assert not [path for path in tmp_path.rglob("*") if "writing" in path.name or path.stem == "0" * 64]


def test_a_file_that_both_checkpoints_need_is_named_for_both(tmp_path):
    federated = federation(("fedsrd", {}), 12, clients_per_round=2)
    state = saved_rounds(federated, 4, tmp_path)
    older, newer = (json.loads((p / "manifest.json").read_text())["clients"] for p in checkpoint.checkpoints(tmp_path))
    name = next(name for name in older if older[name]["sha256"] and newer[name] == older[name])
    path = state.clients.saved[name].file
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"000004: client {name}: .*{path.name}.*; 000003: client {name}: "):
        checkpoint.load(tmp_path, start_adapters(), federated.seed, federated.run)


def crowd() -> Federation:
    """Many clients with residuals and little to train: nearly all time goes into checkpoints."""
    return federation(("fedsrd", {}), 40, clients_per_round=6, drop=0.1)


def play_on(folder: Path, until: int) -> State:
    """Continue from the last checkpoint of the folder, if it has one."""
    federated, state = crowd(), first(crowd())
    if checkpoint.checkpoints(folder):
        state, problems = checkpoint.load(folder, start_adapters(), federated.seed, federated.run)
        assert problems == []
    while state.round < until:
        state = checkpoint.save(play(federated, state, lambda line: None), folder)
    return state


@pytest.mark.slow
@pytest.mark.long
def test_real_processes_killed_while_they_save_lose_at_most_a_round(tmp_path):
    torch.set_num_threads(1)
    code = "import sys; from pathlib import Path; from tests.storage import test_clients as t; "
    command = [sys.executable, "-c", code + "t.play_on(Path(sys.argv[1]), 10**6)", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(thinwire.__file__).parents[1])])}
    moments, reached = random.Random(os.getpid()), 0
    for _ in range(5):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        limit = time.monotonic() + 60
        while process.poll() is None and last(tmp_path) == reached and time.monotonic() < limit:
            time.sleep(0.001)
        time.sleep(moments.random() * 0.1)
        process.kill()
        _, shown = process.communicate()
        assert process.returncode == -signal.SIGKILL, shown
        assert last(tmp_path) > reached, "nothing was saved"
        reached = last(tmp_path)
    want, _ = rounds(crowd(), reached + 2)
    assert everything(play_on(tmp_path, reached + 2)) == everything(want)


def last(folder: Path) -> int:
    """The round of the newest checkpoint."""
    return max((int(path.name) for path in folder.glob("[0-9]*")), default=0)
