"""Who is not let in: an unknown key, a key that is there already, a server's old certificate, a wrong clock."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="the extra flower is not installed")

from tests.flower.conftest import OWNERS
from tests.flower.processes import ENVIRONMENT, command, faults, wait
from thinwire.flower.diagnosis import AHEAD, BEHIND
from thinwire.flower.folder import Link, create, node_key
from thinwire.flower.processes import free_port

pytestmark = [pytest.mark.slow, faults]

FRESH = shutil.ignore_patterns("state", "trainer", "logs", "flower", "audit.jsonl")


@contextmanager
def joining(folder: Path):
    """join in a site's folder: what it prints so far, and Flower's own log."""
    with (folder / "printed.log").open("wb") as log:
        process = subprocess.Popen(command("join", folder), env=ENVIRONMENT, stderr=log)
    try:
        yield lambda: (folder / "printed.log").read_text()
    finally:
        process.terminate()
        process.wait(60)


def test_a_key_that_is_not_registered_is_refused(federation):
    folder = federation.folder / "stranger"
    shutil.copytree(federation.site("beta"), folder, ignore=FRESH)
    (folder / "node.key").unlink()
    node_key(folder / "node.key", federation.folder / "stranger.pub")
    with joining(folder) as printed:
        wait(lambda: "is started again" in printed(), "its end")
    assert f"see {folder}/logs/supernode.log" in printed()
    log = (folder / "logs" / "supernode.log").read_text()
    assert "[code: 2004]" in log
    assert "SuperNode ID" not in log
    assert federation.online() == len(OWNERS)


def test_a_second_node_with_the_same_key_does_no_harm(federation, straight):
    folder = federation.folder / "twin"
    shutil.copytree(federation.site("beta"), folder, ignore=FRESH)
    with joining(folder) as printed:
        wait(lambda: "is started again" in printed(), "its end")
        run = federation.submit("--output", federation.folder / "twins")
        assert federation.finished(run) == straight.adapter
    assert "SuperNode ID" not in (folder / "logs" / "supernode.log").read_text()


def test_an_expired_certificate_is_refused_by_name(tmp_path):
    """A server with an expired certificate, on another port: no SuperNode talks to it."""
    link = Link("old", f"localhost:{free_port()}", "127.0.0.1")
    create(tmp_path / "old", link, ["beta"], None, timedelta(days=-1))
    server = subprocess.Popen(command("serve", tmp_path / "old" / "server"), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    folder = tmp_path / "old" / "sites" / "beta"
    try:
        with joining(folder) as printed:
            wait(lambda: "certificate has expired" in printed(), "its end")
        assert f"the certificate of {link.address} is not accepted" in printed()
        assert "SuperNode ID" not in (folder / "logs" / "supernode.log").read_text()
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def clock(tmp_path_factory) -> Path:
    """A library that shifts the time of day."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler, or no Linux: a process's clock cannot be shifted")
    library = tmp_path_factory.mktemp("clock") / "shifted.so"
    source = Path(__file__).with_name("shifted_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@contextmanager
def shifted(federation, clock: Path, seconds: int):
    """Beta's processes live at another time."""
    federation.end("beta")
    wait(lambda: federation.online() == 1, "beta's end")
    already = len(federation.said("beta"))
    federation.start("beta", LD_PRELOAD=str(clock), CLOCK_SHIFT=str(seconds))
    try:
        yield lambda: federation.said("beta")[already:]
    finally:
        federation.end("beta")
        federation.start("beta")
        federation.all_online()


@pytest.mark.parametrize(("seconds", "way"), [(3600, "ahead of"), (-3600, "behind")])
def test_a_clock_an_hour_off_is_named_and_the_others_go_on(federation, clock, seconds, way):
    federation.rules(quorum=1)
    try:
        with shifted(federation, clock, seconds) as printed:
            wait(lambda: "the clock of this site" in printed(), "the reason")
            told = re.search(r"the clock of this site is (\d+) s (ahead of|behind) the server's", printed())
            assert told
            assert abs(int(told[1]) - 3600) <= 2
            assert told[2] == way
            run = federation.submit("--output", federation.folder / f"clock{seconds}")
            federation.finished(run)
            assert federation.online() == 1
        assert not federation.statuses(run, "beta")
        assert federation.statuses(run, "alpha") == ["counted"] * 2
    finally:
        federation.rules(quorum=2)


@pytest.mark.parametrize("seconds", [int(AHEAD) - 2, 60 - int(BEHIND)])
def test_a_clock_within_the_bound_does_no_harm(federation, straight, clock, seconds):
    with shifted(federation, clock, seconds):
        federation.all_online()
        run = federation.submit("--output", federation.folder / f"clock{seconds}")
        assert federation.finished(run) == straight.adapter
