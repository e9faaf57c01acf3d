"""The server's process: Flower's SuperLink behind a gate, with a port for sites and one for the operator."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
from base64 import b64encode
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path

from thinwire.flower import apps
from thinwire.flower.folder import CA, OPERATOR, SECRET, ServerFolder, open_server
from thinwire.flower.gate import Gate, Inside, Note, Outside, fingerprint


def main(arguments: list[str]) -> int:
    """`python -m thinwire.flower.superlink SERVER`: until a signal."""
    import uvicorn
    from flwr.supercore.http_logging import get_uvicorn_log_config
    from flwr.supercore.logger import console_handler
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
    from flwr.superlink.main import create_app

    server = open_server(Path(arguments[0]))
    outside, inside = listening(server.link.host, server.link.listening), listening("127.0.0.1", server.local_port)
    application = create_app(configuration(server), SuperLinkLifespan)
    state = application.state.linkstate_factory.state()

    def before_start() -> None:
        store_apps(server, state)

    key = (server.path / OPERATOR).read_text()
    doors: Mapping[int, Outside | Inside] = {
        outside.getsockname()[1]: Outside(fingerprints(server)),
        inside.getsockname()[1]: Inside(key),
    }
    gate = Gate(application, doors, noting(server.path / "logs" / "refused.log"), before_start)
    settings = uvicorn.Config(
        gate,
        ssl_certfile=server.path / "server.crt",
        ssl_keyfile=str(server.path / "server.key"),
        ws="none",
        proxy_headers=False,  # whoever asks could say that he is another
        log_config=get_uvicorn_log_config(console_handler.level),
    )
    uvicorn.Server(settings).run(sockets=[outside, inside])
    return 0


def configuration(server: ServerFolder) -> object:
    """Flower's settings: registered nodes only, apps in processes of their own, the state in a file."""
    from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
    from flwr.superlink.config_loader import SuperLinkLifespanConfig

    return SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host="127.0.0.1",
        port=server.local_port,
        insecure=False,
        certificates=None,
        superexec_auth_secret=(server.path / SECRET).read_bytes(),
        authn_plugin=NoOpControlAuthnPlugin(),  # the gate asks for the operator's key
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=str(server.path / CA),
        ssl_certfile=str(server.path / "server.crt"),
        ssl_keyfile=str(server.path / "server.key"),
        database=str(server.path / "superlink.db"),
        isolation="process",
        runtime_dependency_install=False,
    )


def store_apps(server: ServerFolder, state: object) -> None:
    """Give Flower the signed apps of the folder, with their signatures, which a submission cannot carry."""
    from flwr.common.constant import NOOP_FLWR_AID
    from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
    from flwr.supercore.fab import Fab

    for app in apps.load(server.path):
        bundle = Fab(app.hash, app.content, dict(app.signatures))
        state.store_app(bundle, NOOP_FEDERATION_ID, app.name, TaskType.SERVER_APP, NOOP_FLWR_AID)  # type: ignore[attr-defined]


def fingerprints(server: ServerFolder) -> dict[str, str]:
    """Sites by the fingerprint of the key that the folder has for them."""
    return {fingerprint(b64encode(server.public_key(name)).decode()): name for name in server.sites}


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises: OSError."""
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def noting(path: Path) -> Note:
    """Writes lines with their time to a log of at most two files of a megabyte."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    log = logging.Logger(str(path))
    handler = RotatingFileHandler(path, maxBytes=1 << 20, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s refused %(message)s"))
    log.addHandler(handler)
    return log.info


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
