"""What `thinwire federation init` writes, and what it refuses."""

from __future__ import annotations

import ipaddress
import stat
import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("flwr", reason="the extra flower is not installed")

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from flwr.supercore.fab import Fab
from flwr.supernode.start_client_internal import _verify_fab

from thinwire.cli import main
from thinwire.flower import apps
from thinwire.flower.folder import open_link, open_server
from thinwire.flower.processes import OFFLINE, PACE, environment, superexec
from thinwire.flower.superlink import configuration
from thinwire.settings import ConfigError

SITES = ("north", "south")


@pytest.fixture
def folder(tmp_path):
    assert main(["federation", "init", str(tmp_path / "f"), "--address", "server.example:8443", "--sites", *SITES]) == 0
    return tmp_path / "f"


def test_secrets_are_readable_by_their_owner_only(folder):
    private = [*folder.rglob("*.key"), folder / "server" / "superexec.secret"]
    assert len(private) == 2 + len(SITES) + 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    travels = [*(folder / "server").rglob("*"), *(folder / "sites").rglob("*")]
    assert not {"ca.key", "app.key"} & {path.name for path in travels}, "the authority's keys do not travel"
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


def test_init_says_who_may_reach_the_server(tmp_path, capsys):
    words = ["--address", "server.example:8443", "--sites", "a"]
    assert main(["federation", "init", str(tmp_path / "f"), *words]) == 0
    assert "listen on every address of its machine, port 8443: for nodes with one of" in capsys.readouterr().out
    assert main(["federation", "init", str(tmp_path / "g"), *words, "--host", "10.0.0.1", "--port", "9443"]) == 0
    assert "listen on 10.0.0.1, port 9443" in capsys.readouterr().out


def test_sites_trust_the_signature_of_the_app_that_the_server_has(folder):
    app = apps.load(folder / "server")[0]
    bundle = Fab(app.hash, app.content, dict(app.signatures))
    for name in SITES:
        key = (folder / "sites" / name / apps.TRUSTED).read_text()
        assert _verify_fab(bundle, {apps.SIGNATURE: key})
        changed = replace(bundle, content=app.content + b" ")
        assert not _verify_fab(changed, {apps.SIGNATURE: key})
    assert app.name == "@thinwire/thinwire-run"


def test_the_superlink_registers_nobody_by_itself_and_installs_nothing(folder):
    server = open_server(folder / "server")
    (server.path / "local.port").write_text("18443")
    settings = configuration(server)
    assert (settings.enable_supernode_auth, settings.runtime_dependency_install) == (True, False)
    assert settings.superexec_auth_secret == (server.path / "superexec.secret").read_bytes()
    assert "--root-certificates" in superexec(server)
    assert "--insecure" not in superexec(server)


def test_processes_stay_offline(folder, monkeypatch):
    for name in OFFLINE | PACE:
        monkeypatch.delenv(name, raising=False)
    assert environment(folder).items() >= (OFFLINE | PACE).items()
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    assert environment(folder)["FLWR_TELEMETRY_ENABLED"] == "1", "the user may say otherwise"


@pytest.mark.parametrize(("part", "name"), [("server", "operator.key"), ("server", "apps"), ("sites/north", "app.pub")])
def test_a_folder_of_an_earlier_version_is_named(folder, capsys, part, name):
    path = folder / part / name
    path.rename(folder / "away")
    assert main(["federation", "serve" if part == "server" else "join", str(folder / part)]) == 2
    assert f"{path}: it is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--address", "server.example", "--sites", "a"], "--address 'server.example': allowed is HOST:PORT"),
        (["--address", "h:0", "--sites", "a"], "--address 'h:0'"),
        (["--address", "h:99999", "--sites", "a"], "--address 'h:99999'"),
        (["--address", "h:1", "--sites", "a", "--port", "65536"], "--port 65536: allowed is 1 to 65535"),
        (["--address", "h:1", "--sites", "a", "--host", "here"], "--host 'here': allowed is an address"),
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


def test_the_server_may_listen_on_another_port_than_sites_ask_for(tmp_path):
    words = ["--address", "server.example:8443", "--host", "127.0.0.1", "--port", "18443", "--sites", "a"]
    assert main(["federation", "init", str(tmp_path / "f"), *words]) == 0
    server = open_server(tmp_path / "f" / "server")
    assert (server.link.host, server.link.listening) == ("127.0.0.1", 18443)
    assert open_link(tmp_path / "f" / "sites" / "a").address == "server.example:8443"


def test_settings_of_the_server_are_checked(folder):
    path = folder / "server" / "server.toml"
    path.write_text(path.read_text().replace("quorum = 2", "quorum = 0"))
    with pytest.raises(ConfigError, match=r"rules\.quorum = 0"):
        open_server(folder / "server")
