"""What a site keeps: whole or not at all, and its log of what left."""

from __future__ import annotations

import errno
import json
import resource
import stat

import pytest

from tests.federation.conftest import local, opened, problems, run
from tests.laws.synthetic import bits, seeded, start_adapters
from thinwire.config import from_dict
from thinwire.engine import ClientState
from thinwire.federation import audit
from thinwire.federation.messages import PROBLEMS, Request
from thinwire.federation.settings import load_site
from thinwire.federation.site import Trainers
from thinwire.federation.store import SiteState, StoreError, forget, store
from thinwire.settings import ConfigError


def saved() -> SiteState:
    start = start_adapters()
    memory = {"own": start.put({("layer.0.up", "b"): seeded(1, 20, 2)})}
    counted = ClientState(3, memory, {("stem.conv", "a"): seeded(2, 4, 27)}, {"moment": seeded(3, 3)})
    lost = ClientState(3, memory, {("stem.conv", "a"): seeded(4, 4, 27)}, {"moment": seeded(3, 3)})
    held = start.put({("layer.0.up", "a"): seeded(5, 2, 8)})
    return SiteState(held, 3, counted, lost, 2, "question", {"loss": 0.5}, b"\x00upload\xff")


def test_what_is_saved_is_loaded_to_the_last_bit(tmp_path):
    kept = store(tmp_path, "words", "run-1")
    assert bits(kept.load(start_adapters())) == bits(SiteState(start_adapters()))
    kept.save(saved())
    assert bits(kept.load(start_adapters())) == bits(saved())
    assert kept.load(start_adapters()).settled(2).residual.keys() == saved().counted.residual.keys()
    assert bits(kept.load(start_adapters()).settled(1)) == bits(saved().lost)


@pytest.mark.parametrize("call", ["save_file", "fsync", "replace"])
def test_a_full_disk_leaves_the_state_before(tmp_path, monkeypatch, call):
    import os

    import safetensors.torch

    kept = store(tmp_path, "words", "run-1")
    kept.save(saved())

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.torch if call == "save_file" else os, call, full)
    with pytest.raises(OSError, match="No space left"):
        kept.save(SiteState(start_adapters()))
    monkeypatch.undo()
    assert bits(kept.load(start_adapters())) == bits(saved())


def test_a_file_that_cannot_grow_is_named_and_leaves_the_state_before(tmp_path):
    """The kernel refuses the bytes, as it does on a full disk; nothing is made up."""
    kept = store(tmp_path, "words", "run-1")
    kept.save(saved())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            kept.save(SiteState(start_adapters()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(kept.folder / "state.safetensors") in str(caught.value)
    assert [path.name for path in kept.folder.iterdir()] == ["state.safetensors"]
    assert bits(kept.load(start_adapters())) == bits(saved())


@pytest.mark.parametrize("cut", [0, 7, 300, -1])
def test_damage_is_told(tmp_path, cut):
    kept = store(tmp_path, "words", "run-1")
    kept.save(saved())
    path = kept.folder / "state.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(StoreError, match=r"state\.safetensors"):
        kept.load(start_adapters())


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x" * 200, "a\0b"])
def test_a_run_s_name_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(ConfigError, match="allowed are letters"):
        store(tmp_path, "words", name)


def test_forget_removes_runs_and_keeps_the_log(tmp_path):
    for run_ in ("one", "two"):
        store(tmp_path, "words", run_).save(saved())
    (tmp_path / audit.FILE).write_text("{}\n")
    assert [path.name for path in forget(tmp_path, "words", "one")] == ["one"]
    assert [path.name for path in forget(tmp_path, "words", None)] == ["two"]
    assert forget(tmp_path, "words", "one") == []
    assert (tmp_path / audit.FILE).exists()


def test_everything_that_leaves_is_in_the_log(recipe, sites, tmp_path):
    import hashlib

    transport, left = local(sites), []

    def note(node, request, reply):
        if node == 12:
            left.append((request.task, request.round + 1, [hashlib.sha256(blob).hexdigest() for blob in reply.blobs]))
        return reply

    transport.spoil = note
    run(recipe(run={"references": False}), tmp_path / "run", transport)
    path = sites["beta"] / audit.FILE
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    assert [(line["task"], line["round"], line["sha256"]) for line in lines] == left
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    rounds = [line for line in lines if line["task"] == "round"]
    assert all(0 < line["facts"]["density"] < 0.5 and line["federation"] == "words" for line in rounds)


def test_nothing_leaves_when_the_log_cannot_be_written(recipe, sites, tmp_path, monkeypatch):
    transport = local(sites)
    coordinator, _ = opened(recipe(run={"references": False}), tmp_path / "run")
    monkeypatch.setattr(audit, "record", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        transport.exchange(coordinator.members.greet(transport.nodes(), 0), 1)


def test_a_reply_that_tells_a_defect_is_in_the_log_too(recipe, sites, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of memory")

    transport = local(sites)
    coordinator, told = opened(recipe(run={"references": False}), tmp_path / "run")
    monkeypatch.setattr(Trainers, "hello", broken)
    coordinator.meet(transport.exchange(coordinator.members.greet(transport.nodes(), 0), 1))
    assert all(PROBLEMS["defect"] in text for text in told)
    lines = [json.loads(text) for text in (sites["beta"] / audit.FILE).read_text().splitlines()]
    assert [line["problem"] for line in lines] == ["defect"]
    assert [line["text"] for line in problems(sites["beta"])] == ["out of memory"]


def test_a_damaged_state_is_told_and_the_site_begins_anew(recipe, sites, tmp_path, caplog):
    transport = local(sites)

    def damage(node, request, reply):
        if node == 12 and request.task == "evaluate" and request.round == 2:
            path = next((sites["beta"] / "state").rglob("state.safetensors"))
            path.write_bytes(b"rubbish")
        return reply

    transport.spoil = damage
    _, told, _ = run(recipe(run={"references": False}), tmp_path / "run", transport)
    assert any("this site begins anew" in text for text in caplog.messages)
    assert "round 4/4 counted" in told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "../x"', "name = '../x': allowed are letters"),
        ("", "name = None"),
        ('name = "a"\n[trainer]\nidle = 0', "trainer.idle = 0"),
        ('name = "a"\n[trainr]\n', "did you mean trainer"),
        ('name = "a"\ndata = 3', "data = 3: allowed is a table"),
        ('name = "a"\n[data]\nsourc = "x"', "data.sourc is unknown"),
    ],
)
def test_bad_settings_are_named(tmp_path, text, words):
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(ConfigError, match=words.replace(".", r"\.").replace("[", r"\[")):
        load_site(tmp_path)


def test_the_server_can_name_no_code_of_the_site(recipe, sites, tmp_path):
    """`federation.capability` is a function that is imported and called: at the server, never at a site."""
    from dataclasses import asdict

    server = asdict(recipe(run={"references": False}))
    server["federation"]["capability"] = "os:abort"
    transport = local(sites)
    hello = Request("hello", "run-1", recipe=server)
    assert transport.there_and_back(11, hello).problem == ""
    assert load_site(sites["alpha"]).recipe(from_dict(server)).federation.capability is None


def test_the_server_can_name_no_file_of_the_site(recipe, sites):
    site = load_site(sites["alpha"])
    server = recipe(data={"source": "/etc", "clients": ["shadow"]}, model={"name": "/elsewhere"})
    own = site.recipe(server)
    assert own.data.source == str(sites["alpha"] / "data")
    assert own.model.name == site.model.name
    assert (own.data.clients, own.model.adapter) == ((), None)
