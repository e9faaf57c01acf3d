"""Who is kept out, tried with real processes: on the server's port, on its machine, at a site, and as an app."""

from __future__ import annotations

import http.client
import os
import shutil
import ssl
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w

pytest.importorskip("flwr", reason="the extra flower is not installed")

from tests.flower.conftest import OWNERS
from tests.flower.processes import ENVIRONMENT, wait
from thinwire.flower import apps, control
from thinwire.flower.folder import VALID, Link, certificates, node_key, open_server
from thinwire.flower.processes import environment

pytestmark = [pytest.mark.slow, pytest.mark.long]

NOBODY = 65534
KNOCK = """
import http.client, ssl, sys
port, path, *key = sys.argv[1:]
context = ssl._create_unverified_context()
link = http.client.HTTPSConnection("127.0.0.1", int(port), timeout=30, context=context)
link.request("POST", path, b"", {"authorization": f"Bearer {key[0]}"} if key else {})
answer = link.getresponse()
print(answer.status, answer.read().decode())
"""


def refused(folder: Path) -> str:
    """What the gate of a folder's process noted."""
    return (folder / "logs" / "refused.log").read_text()


def knock(port: int, path: str, *key: str, user: int = os.geteuid()) -> str:
    """Status and words of an answer to a user of this machine."""
    whose = [] if user == os.geteuid() else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    found = subprocess.run(
        [*whose, sys._base_executable, "-c", KNOCK, str(port), path, *key], capture_output=True, text=True, cwd="/"
    )
    return found.stdout or found.stderr


def runtime_port(federation, name: str) -> int:
    """The port of a site's own processes."""
    executor = federation.children("flower-superexec", federation.site(name))[0]
    words = (Path("/proc") / str(executor) / "cmdline").read_bytes().decode().split("\0")
    return int(words[words.index("--runtime-api-address") + 1].rpartition(":")[2])


@pytest.fixture
def outside(federation, tmp_path):
    """Somebody elsewhere who has the authority's certificate, and nothing else."""
    (tmp_path / "server").mkdir()
    shutil.copy(federation.server / "ca.crt", tmp_path / "server")
    return tmp_path / "server"


def test_flower_s_own_command_line_gets_nothing_from_outside(federation, outside, tmp_path):
    server = open_server(federation.server)
    connection = {"address": server.link.address, "root-certificates": str(outside / "ca.crt")}
    (tmp_path / "home").mkdir()
    text = tomli_w.dumps({"superlink": {"default": "x", "x": connection}})
    (tmp_path / "home" / "config.toml").write_text(text)
    app = tmp_path / "app"
    app.mkdir()
    for name, content in apps.thinwire_app().items():
        (app / name).write_bytes(content)
    home = {**ENVIRONMENT, "FLWR_HOME": str(tmp_path / "home"), "FLWR_TELEMETRY_ENABLED": "0"}
    for words in (["run", str(app), "x"], ["list", "x"], ["supernode", "list", "x"]):
        flwr = [str(Path(sys.executable).parent / "flwr"), *words]
        done = subprocess.run(flwr, env=home, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0
        assert "403" in done.stdout + done.stderr
    for path in ("start-run", "list-runs", "list-nodes"):
        assert f"without a key: POST /v1/control/{path}: only calls of a site's node pass" in refused(federation.server)
    assert control.runs(server) == []


def test_the_authority_s_certificate_alone_opens_nothing(federation, outside):
    server = open_server(federation.server)
    trust = ssl.create_default_context(cafile=str(outside / "ca.crt"))
    for path in ("/v1/runtime/get-nodes", "/v1/control/start-run", "/docs", "/v1/fleet/pull-messages"):
        link = http.client.HTTPSConnection("localhost", server.link.listening, timeout=30, context=trust)
        link.request("POST", path, b"", {"content-type": "application/x-protobuf"})
        assert link.getresponse().status in (401, 403, 415), path
        link.close()
        assert f"without a key: POST {path}" in refused(federation.server)


def supernode(site: Path) -> str:
    """What a site's node says until it gives up."""
    (site / "logs").mkdir(exist_ok=True)
    command, log = [sys.executable, "-m", "thinwire.flower.supernode", str(site)], site / "logs" / "supernode.log"
    with log.open("wb") as stream:  # its executor outlives it for a moment, and would hold a pipe open
        done = subprocess.run(command, env=environment(site / "flower"), stdout=stream, stderr=stream, timeout=120)
    assert done.returncode != 0
    return log.read_text()


@pytest.fixture
def stranger(federation, tmp_path):
    """A site's folder with a key of its own making."""
    site = shutil.copytree(federation.site("beta"), tmp_path / "site", ignore=shutil.ignore_patterns("trainer", "logs"))
    (site / "node.key").unlink()
    node_key(site / "node.key", tmp_path / "stranger.pub")
    return site


def test_a_node_that_is_not_registered_is_refused_with_its_key(federation, stranger):
    assert "SuperNode ID" not in supernode(stranger)
    assert "key SHA256:" in refused(federation.server)
    assert "POST /v1/fleet/activate-node: Flower refuses it" in refused(federation.server)
    assert federation.online() == len(OWNERS)


def test_a_node_does_not_talk_to_a_server_of_another_authority(federation, stranger, tmp_path):
    (tmp_path / "ca").mkdir()
    (tmp_path / "other").mkdir()
    link = Link("f", "localhost:1")
    shutil.copy(certificates(tmp_path / "ca", tmp_path / "other", link, VALID), stranger / "ca.crt")
    assert "certificate" in supernode(stranger).lower()




def test_on_the_server_nobody_submits_without_the_operator_s_key(federation):
    server = open_server(federation.server)
    for key in ((), ("wrong",)):
        assert knock(server.local_port, "/v1/control/list-runs", *key).startswith("401 refused: the operator's key")
    wrong = shutil.copytree(
        federation.server, federation.folder / "copy", ignore=shutil.ignore_patterns("superlink.db*", "runs", "logs")
    )
    (wrong / "operator.key").write_text("wrong")
    with pytest.raises(control.ControlError, match="401"):
        control.submit(replace(server, path=wrong), federation.folder)
    assert "on this machine: POST /v1/control/start-run: the operator's key is missing" in refused(federation.server)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can be another user")
def test_another_user_of_the_machine_gets_nothing_even_with_every_secret(federation):
    server = open_server(federation.server)
    key = (federation.server / "operator.key").read_text()
    assert knock(server.local_port, "/v1/control/list-runs", key)[:3] not in ("401", "403")
    for path in ("/v1/control/start-run", "/v1/runtime/acquire-task", "/v1/runtime/pull-messages"):
        assert knock(server.local_port, path, key, user=NOBODY).startswith(f"403 refused: user {NOBODY}")
        assert f"on this machine: POST {path}: user {NOBODY}" in refused(federation.server)
    port, site = runtime_port(federation, "alpha"), federation.site("alpha")
    for path in ("/v1/runtime/acquire-task", "/v1/runtime/pull-messages"):
        assert knock(port, path, user=NOBODY).startswith(f"403 refused: user {NOBODY}")
        assert f"on this machine: POST {path}: user {NOBODY}" in refused(site)


EVIL = {
    "serverside.py": """
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    messages = [Message(RecordDict(), dst_node_id=node, message_type="train") for node in grid.get_node_ids()]
    replies = list(grid.send_and_receive(messages, timeout=90))
    words = [message.error.reason if message.has_error() else "it ran" for message in replies]
    open(str(context.run_config["output"]), "w").write("|".join(words))
""",
    "clientside.py": """
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()

@app.train()
def train(message, context):
    open(str(context.node_config["site"]) + "/taken", "w").write("evil")
    return Message(RecordDict(), reply_to=message)
""",
}


@pytest.mark.parametrize("trick", ["unsigned", "by another key", "the signature of the right app"])
def test_a_site_runs_no_app_that_is_not_signed(federation, tmp_path, trick):
    """The operator himself, or who took his machine, sends code: sites refuse it by Flower's own check."""
    files = apps.thinwire_app() | {name: text.encode() for name, text in EVIL.items()}
    apps.new_key(tmp_path / "app.key")
    app, server = apps.signed(files, tmp_path / "app.key"), open_server(federation.server)
    real = apps.load(server.path)[0]
    if trick != "by another key":
        app = replace(app, signatures=real.signatures if trick.startswith("the signature") else {})
    apps.save(app, server.path)
    try:
        control.start(server, app, {"output": str(tmp_path / "replies"), "rules": ""})
        wait((tmp_path / "replies").exists, "the app's replies", 150)
        wait(lambda: (tmp_path / "replies").read_text(), "the app's replies")
    finally:
        for path in (server.path / apps.FOLDER).glob(f"{app.hash}.*"):
            path.unlink()
    assert (tmp_path / "replies").read_text() == "|".join(["The FAB could not be verified."] * len(OWNERS))
    for name in OWNERS:
        assert not (federation.site(name) / "taken").exists()
        assert "FAB" in (federation.site(name) / "logs" / "supernode.log").read_text()
