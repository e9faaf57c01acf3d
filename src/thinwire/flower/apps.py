"""Apps that sites run: bundled once, signed once, with a key that no server has."""

from __future__ import annotations

import hashlib
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from thinwire.storage.files import write_private

FOLDER, SIGNER, TRUSTED = "apps", "app.key", "app.pub"
"""Signed apps at the server; the key that signs, beside the authority's; what a site trusts."""

SIGNATURE = "thinwire"
"""The name of the signature among those of an app."""

RUN = {
    "project": {"name": "thinwire-run", "version": "1.0.0", "description": "thinwire's apps; the code is installed"},
    "tool": {
        "flwr": {
            "app": {
                "publisher": "thinwire",
                "components": {"serverapp": "serverside:app", "clientapp": "clientside:app"},
                "config": {"rules": "", "output": ""},
            }
        }
    },
}
MODULES = {"serverside": "thinwire.flower.server_app", "clientside": "thinwire.flower.client_app"}


@dataclass(frozen=True)
class SignedApp:
    """A Flower App Bundle with its signature. name: @publisher/project."""

    name: str
    content: bytes
    signatures: Mapping[str, str]

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def thinwire_app() -> dict[str, bytes]:
    """The files of the app of `thinwire federation submit`; both sides' code is what is installed there."""
    code = {f"{name}.py": f"import {module} as installed\n\napp = installed.app\n" for name, module in MODULES.items()}
    return {"pyproject.toml": tomli_w.dumps(RUN).encode(), **{name: text.encode() for name, text in code.items()}}


def signed(files: Mapping[str, bytes], key: Path) -> SignedApp:
    """The bundle of an app's files, signed as Flower's SuperNodes check it."""
    from flwr.cli.build import build_fab_from_files
    from flwr.common.config import get_fab_config
    from flwr.supercore.primitives.asymmetric_ed25519 import create_message_to_sign, load_private_key

    content = build_fab_from_files(files)[0]
    now = int(time.time())
    message = create_message_to_sign(hashlib.sha256(content).digest(), now)
    signature = urlsafe_b64encode(load_private_key(key).sign(message)).decode()
    marks = {SIGNATURE: json.dumps({"signature": signature, "signed_at": now}), "valid_license": "Valid"}
    return SignedApp(name_of(get_fab_config(content)), content, marks)


def name_of(config: Mapping[str, Any]) -> str:
    return f"@{config['tool']['flwr']['app']['publisher']}/{config['project']['name']}"


def save(app: SignedApp, server: Path) -> None:
    """Put an app where the server finds it."""
    folder = server / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / f"{app.hash}.fab").write_bytes(app.content)
    (folder / f"{app.hash}.json").write_text(json.dumps({"name": app.name, "signatures": dict(app.signatures)}))


def load(server: Path) -> list[SignedApp]:
    """The server's apps; the newest of a name is last."""
    found = sorted((server / FOLDER).glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    notes = [(path, json.loads(path.read_text())) for path in found]
    return [SignedApp(note["name"], path.with_suffix(".fab").read_bytes(), note["signatures"]) for path, note in notes]


def new_key(private: Path) -> bytes:
    """A key that signs apps, written for its owner only; its public half, as a site keeps it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = ed25519.Ed25519PrivateKey.generate()
    form = serialization.PrivateFormat.OpenSSH
    write_private(private, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    ssh = serialization.PublicFormat.OpenSSH
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, ssh)
