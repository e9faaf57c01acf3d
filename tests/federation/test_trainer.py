"""The resident trainer as a real process: loaded once, reached by its own user only, killed and idle."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection

import pytest

from tests.federation.conftest import Local, local, make_site, run
from thinwire.federation import messages, trainer
from thinwire.federation import socket as local_socket
from thinwire.federation.messages import Request
from thinwire.federation.settings import load_site
from thinwire.federation.site import Trainers


def wait(until: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


@pytest.fixture
def site(place, tmp_path):
    folder = make_site(tmp_path / "beta", "beta", place, idle="60.0")
    yield folder
    if (process := trainer.running(folder)) is not None:
        os.kill(process, signal.SIGKILL)


@pytest.fixture
def hello(recipe):
    return Request("hello", "run-1", recipe=asdict(recipe(run={"references": False}, train={"steps": 40})))


@pytest.mark.slow
@pytest.mark.long
def test_it_is_started_by_the_first_question_and_stays(site, hello):
    assert trainer.running(site) is None
    first = local_socket.ask(site, hello)
    assert (first.problem, first.site, first.version) == ("", "beta", None)
    process = trainer.running(site)
    began = time.monotonic()
    assert local_socket.ask(site, hello).facts == first.facts
    assert time.monotonic() - began < 1, "the base was loaded again"
    assert trainer.running(site) == process
    assert local_socket.start(site).wait(30) == 0, "a second trainer leaves the first alone"
    assert trainer.running(site) == process
    folder = site / local_socket.FOLDER
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / local_socket.NAME).stat().st_mode) == 0o600
    assert trainer.stop(site)
    wait(lambda: trainer.running(site) is None)


@pytest.mark.slow
@pytest.mark.long
def test_it_gives_its_memory_back_when_idle(place, tmp_path, hello):
    folder = make_site(tmp_path / "beta", "beta", place, idle="0.5")
    assert not local_socket.ask(folder, hello).problem
    wait(lambda: trainer.running(folder) is None)
    assert not local_socket.ask(folder, hello).problem, "it is started again when needed"
    wait(lambda: trainer.running(folder) is None)


@pytest.mark.slow
@pytest.mark.long
def test_killed_in_mid_step_it_is_started_again_and_sends_the_same_bytes(site, hello, place, tmp_path):
    twin = local({"beta": make_site(tmp_path / "twin", "beta", place)})
    local_socket.ask(site, hello)
    told = twin.there_and_back(11, hello)
    client = {"name": "beta", "index": 0, "examples": told.facts["examples"]}
    begin = Request("round", "run-1", client=client, blobs=(_start(hello),))
    expected = twin.there_and_back(11, begin)
    victim = trainer.running(site)
    code = (
        "import sys; from multiprocessing.connection import Connection; from pathlib import Path;"
        "from thinwire.federation import messages, socket;"
        "request = messages.request(*messages.receive(Connection(0, writable=False)));"
        "messages.send(Connection(1, readable=False), socket.ask(Path(sys.argv[1]), request))"
    )
    asking = subprocess.Popen([sys.executable, "-c", code, str(site)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    messages.send(Connection(os.dup(asking.stdin.fileno()), readable=False), begin)
    asking.stdin.close()
    log = site / local_socket.FOLDER / local_socket.LOG
    wait(lambda: "round, run run-1" in log.read_text())
    time.sleep(0.1)
    os.kill(victim, signal.SIGKILL)
    reply = messages.reply(*messages.receive(Connection(os.dup(asking.stdout.fileno()), writable=False)))
    assert asking.wait(60) == 0
    assert reply.problem == ""
    assert reply.blob == expected.blob
    assert trainer.running(site) not in (None, victim)


def _start(hello: Request) -> bytes:
    """The first message of a run: the server's state of version 0."""
    from thinwire.identity import run_id
    from thinwire.payload import Payload
    from thinwire.wire import pack

    return pack(Payload("state", 0, run_id(hello.run), {}))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("opened_up", [False, True], ids=["by the folder", "by its credentials"])
def test_another_user_is_shut_out(site, hello, opened_up):
    """Also where somebody made folder and socket open to all: the kernel says who is on the other end."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    local_socket.ask(site, hello)
    folder = site / local_socket.FOLDER
    if opened_up:
        folder.chmod(0o777)
        (folder / local_socket.NAME).chmod(0o777)
    code = (
        "import os, socket, sys; os.chdir(sys.argv[1]); os.setgid(65534); os.setuid(65534);"
        "client = socket.socket(socket.AF_UNIX); client.connect('socket'); client.settimeout(20); print(client.recv(9))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=60)
    if opened_up:
        assert done.stdout in ("b''\n", "")
        assert "timed out" not in done.stderr
        assert "user 65534 was refused" in (folder / local_socket.LOG).read_text()
    else:
        assert "PermissionError" in done.stderr


@pytest.mark.slow
@pytest.mark.long
def test_bytes_that_are_no_message_do_not_hurt_it(site, hello):
    local_socket.ask(site, hello)
    for junk in (b"", b"\xff" * 64, b"\0\0\0\4nope", b"\0\0\0\x0a99999999 {}", b"\0\0\0\4", b"\0\0\0\4{\xff{}"):
        with contextlib.suppress(ConnectionResetError), local_socket.connect(site) as connection:
            connection.sendall(junk)
            connection.shutdown(1)
            while connection.recv(4096):
                pass
    assert local_socket.ask(site, hello).problem == ""


@pytest.mark.slow
def test_bad_settings_are_told_not_waited_for(site, hello):
    (site / "site.toml").write_text('name = "beta"\n[trainer]\nidle = -1\n')
    with pytest.raises(local_socket.TrainerUnreachable, match="does not start"):
        local_socket.ask(site, hello, patience=30)
    assert "trainer.idle = -1" in (site / local_socket.FOLDER / local_socket.LOG).read_text()


@pytest.mark.slow
@pytest.mark.long
def test_a_run_over_processes_is_the_simulation_s(recipe, straight_quick, sites, tmp_path):
    """Three trainers as processes, one of them killed between two rounds."""

    class Processes(Local):
        def there_and_back(self, node, request):
            return local_socket.ask(self.trainers[node].site.folder, request)

    transport = Processes({11 + i: Trainers(load_site(folder), "words") for i, folder in enumerate(sites.values())})

    def kill(node, request, reply):
        if node == 12 and request.round == 1 and request.task == "evaluate":
            os.kill(trainer.running(sites["beta"]), signal.SIGKILL)
        return reply

    transport.spoil = kill
    try:
        _, _, adapter = run(recipe(run={"references": False}), tmp_path / "run", transport)
    finally:
        for folder in sites.values():
            if (process := trainer.running(folder)) is not None:
                os.kill(process, signal.SIGKILL)
    assert adapter == straight_quick.adapter
    lines = [json.loads(text) for text in (sites["beta"] / "audit.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines if line["task"] == "round"] == [1, 2, 3, 4]
    assert all(line["bytes"] > 100 and len(line["sha256"]) == 1 for line in lines if line["task"] == "round")
