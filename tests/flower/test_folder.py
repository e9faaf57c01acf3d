"""What `thinwire federation init` writes, and what it refuses."""

from __future__ import annotations

import ipaddress
import stat
import tomllib
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("flwr", reason="the extra flower is not installed")

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from thinwire.cli import main
from thinwire.flower.folder import open_link, open_server
from thinwire.flower.processes import OFFLINE, PACE, environment, superlink, supernode
from thinwire.settings import ConfigError

SITES = ("north", "south")


@pytest.fixture
def folder(tmp_path):
    assert main(["federation", "init", str(tmp_path / "f"), "--address", "server.example:8443", "--sites", *SITES]) == 0
    return tmp_path / "f"


def test_secrets_are_readable_by_their_owner_only(folder):
    private = [*folder.rglob("*.key"), folder / "server" / "superexec.secret"]
    assert len(private) == 2 + len(SITES) + 1
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert not list((folder / "server").rglob("ca.key")), "the authority's key does not travel"
    assert not list((folder / "sites").rglob("server.key"))


def test_the_server_s_certificate_names_its_address_and_is_signed(folder):
    authority = x509.load_pem_x509_certificate((folder / "ca" / "ca.crt").read_bytes())
    server = x509.load_pem_x509_certificate((folder / "server" / "server.crt").read_bytes())
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["server.example", "localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.0.0.1")]
    now = datetime.now(UTC)
    assert server.not_valid_before_utc < now - timedelta(hours=2), "a clock an hour off does no harm"
    assert server.not_valid_after_utc > now + timedelta(days=4 * 365)


def test_node_keys_are_pairs_and_all_different(folder):
    public = set()
    for name in SITES:
        key = serialization.load_ssh_private_key((folder / "sites" / name / "node.key").read_bytes(), None)
        there = serialization.load_ssh_public_key((folder / "server" / "nodes" / f"{name}.pub").read_bytes())
        assert key.public_key() == there
        public.add((folder / "server" / "nodes" / f"{name}.pub").read_bytes())
    assert len(public) == len(SITES)


def test_what_was_written_is_read_again(folder):
    server = open_server(folder / "server")
    assert server.sites == list(SITES)
    assert (server.link.name, server.link.listening, server.rules.quorum) == ("f", 8443, 2)
    assert open_link(folder / "sites" / "north") == server.link
    assert tomllib.loads((folder / "server" / "recipe.toml").read_text())["method"]["name"]


def test_units_run_the_same_commands(folder):
    for path, action in ((folder / "server" / "thinwire-server.service", "serve"),):
        text = path.read_text()
        assert f"federation {action} {path.parent}" in text
        assert "Restart=always" in text
    assert "federation join" in (folder / "sites" / "north" / "thinwire-site.service").read_text()


def test_processes_use_tls_and_keys_and_stay_offline(folder, monkeypatch):
    link = " ".join(superlink(open_server(folder / "server")))
    assert "--insecure" not in link
    assert "--enable-supernode-auth" in link
    assert "--isolation process --database" in link
    node = " ".join(supernode(folder / "sites" / "north"))
    assert "--insecure" not in node
    assert "--auth-supernode-private-key" in node
    assert "--root-certificates" in node
    for name in OFFLINE | PACE:
        monkeypatch.delenv(name, raising=False)
    assert environment(folder).items() >= (OFFLINE | PACE).items()
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    assert environment(folder)["FLWR_TELEMETRY_ENABLED"] == "1", "the user may say otherwise"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--address", "server.example", "--sites", "a"], "--address 'server.example': allowed is HOST:PORT"),
        (["--address", "h:0", "--sites", "a"], "--address 'h:0'"),
        (["--address", "h:99999", "--sites", "a"], "--address 'h:99999'"),
        (["--address", "h:1", "--sites", "a", "--port", "65536"], "--port 65536: allowed is 1 to 65535"),
        (["--address", "h:1", "--sites", "a", "a"], "--sites 'a': given twice"),
        (["--address", "h:1", "--sites", "../a"], "--sites '../a': allowed are letters"),
        (["--address", "h:1", "--sites", "a", "--name", "a b"], "--name 'a b'"),
        (["--address", "h:1", "--sites", "a", "--recipe", "missing.toml"], "no such file"),
    ],
)
def test_bad_input_is_named(tmp_path, capsys, arguments, words):
    assert main(["federation", "init", str(tmp_path / "f"), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


def test_a_folder_in_use_is_left_alone(folder, capsys):
    assert main(["federation", "init", str(folder), "--address", "h:1", "--sites", "a"]) == 2
    assert "not empty" in capsys.readouterr().err
    assert open_server(folder / "server").link.address == "server.example:8443"


@pytest.mark.parametrize("command", ["serve", "join", "submit", "status", "stop", "forget"])
def test_a_folder_that_is_none_is_an_error_without_a_traceback(tmp_path, capsys, command):
    code = main(["federation", command, str(tmp_path / "nothing")])
    printed = capsys.readouterr()
    assert code == 2 or (command == "stop" and "no trainer" in printed.out)


def test_behind_a_proxy_the_server_listens_on_a_port_of_its_own(tmp_path):
    words = ["--address", "server.example:8443", "--host", "127.0.0.1", "--port", "18443", "--sites", "a"]
    assert main(["federation", "init", str(tmp_path / "f"), *words]) == 0
    server = open_server(tmp_path / "f" / "server")
    assert "--host 127.0.0.1 --port 18443" in " ".join(superlink(server))
    assert server.link.local == "127.0.0.1:18443"
    assert "--superlink server.example:8443" in " ".join(supernode(tmp_path / "f" / "sites" / "a"))


def test_settings_of_the_server_are_checked(folder):
    path = folder / "server" / "server.toml"
    path.write_text(path.read_text().replace("quorum = 2", "quorum = 0"))
    with pytest.raises(ConfigError, match=r"rules\.quorum = 0"):
        open_server(folder / "server")
