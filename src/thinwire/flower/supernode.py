"""A site's process: Flower's SuperNode, which runs signed apps only and whose own port answers this user only."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

from thinwire.flower import apps
from thinwire.flower.folder import CA, KEY, loopback_certificate, open_link
from thinwire.flower.gate import Gate, Inside
from thinwire.flower.superlink import listening, noting


def main(arguments: list[str]) -> int:
    """`python -m thinwire.flower.supernode SITE`: until a signal, or until the server does not let it in."""
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.supernode.nodestate import NodeStateFactory
    from flwr.supernode.start_client_internal import start_client_internal

    site = Path(arguments[0])
    key: Any = load_ssh_private_key((site / KEY).read_bytes(), None)
    factory = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
    certificate, secret = loopback_certificate(site / "flower")
    start_client_internal(
        state_factory=factory,
        server_address=open_link(site).address,
        node_config={"site": str(site)},
        root_certificates=str(site / CA),
        insecure=False,
        authentication_keys=(key, key.public_key()),
        runtime_api_address=answer(site, factory, certificate, secret),
        runtime_certificates=(b"", b"", b""),  # it only asks whether there are any
        runtime_root_certificates_path=str(certificate),
        trusted_entities={apps.SIGNATURE: (site / apps.TRUSTED).read_text()},
        runtime_dependency_install=False,
    )
    return 0


def answer(site: Path, factory: Any, certificate: Path, secret: Path) -> str:
    """Serve the port for the processes that run apps, beside the node's own work; its address."""
    import uvicorn
    from flwr.supercore.exit import add_exit_handler
    from flwr.supernode.main import create_app

    inside = listening("127.0.0.1", 0)
    port = inside.getsockname()[1]
    gate = Gate(create_app(state_factory=factory), {port: Inside()}, noting(site / "logs" / "refused.log"))
    settings = uvicorn.Config(
        gate,
        ssl_certfile=certificate,
        ssl_keyfile=str(secret),
        ws="none",
        proxy_headers=False,  # whoever asks could say that he is another
        access_log=False,
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, args=([inside],), name="runtime", daemon=True)
    thread.start()
    while thread.is_alive() and not server.started:
        time.sleep(0.05)

    def stop() -> None:
        server.should_exit = True
        thread.join(5)
        server.force_exit = True

    add_exit_handler(stop)
    return f"127.0.0.1:{port}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
