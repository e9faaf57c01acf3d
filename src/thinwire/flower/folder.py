"""The folder of a federation: certificates, node keys, settings and units, a part for each machine."""

from __future__ import annotations

import ipaddress
import secrets
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import tomli_w

from thinwire.config import read_toml
from thinwire.federation.settings import WORD, Rules
from thinwire.flower import apps
from thinwire.settings import ConfigError, build, setting
from thinwire.storage.files import write_private

SERVER, CA, KEY, LINK = "server.toml", "ca.crt", "node.key", "link.toml"
SECRET, OPERATOR, LOCAL = "superexec.secret", "operator.key", "local.port"
"""At the server: what its executor proves itself with, what an operator does, and the port for both on loopback."""

VALID = timedelta(days=5 * 365)
"""How long a federation's certificates hold."""


@dataclass(frozen=True)
class Link:
    """How sites reach the server: `link.toml` at each site, and the head of `server.toml`."""

    name: str = setting(doc="the federation's name")
    address: str = setting(doc="host:port by which sites reach the server")
    host: str = setting("0.0.0.0", "the server's interface to listen on")
    port: int = setting(0, "the port to listen on, where it is forwarded; 0: that of the address", low=0, high=65535)

    @property
    def listening(self) -> int:
        """The port that the SuperLink listens on."""
        return self.port or int(self.address.rpartition(":")[2])


@dataclass(frozen=True)
class ServerFolder:
    """`server/`, opened."""

    path: Path
    link: Link
    rules: Rules = field(default_factory=Rules)

    @property
    def sites(self) -> list[str]:
        return sorted(path.stem for path in (self.path / "nodes").glob("*.pub"))

    def public_key(self, site: str) -> bytes:
        """A site's public key as Flower's messages have it."""
        from cryptography.hazmat.primitives.serialization import load_ssh_public_key
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes

        key: Any = load_ssh_public_key((self.path / "nodes" / f"{site}.pub").read_bytes())
        return bytes(public_key_to_bytes(key))

    @property
    def local_port(self) -> int:
        """The port on loopback for the operator and the executor. Raises: ConfigError if it was never served."""
        try:
            return int((self.path / LOCAL).read_text())
        except FileNotFoundError:
            raise ConfigError(f"{self.path} was not served yet: thinwire federation serve {self.path}") from None


def open_server(path: Path) -> ServerFolder:
    """Read `server.toml`. Raises: ConfigError."""
    values = read_toml(path / SERVER)
    rules = values.pop("rules", {})
    return ServerFolder(path.resolve(), build(Link, values, "server"), build(Rules, rules, "rules"))


def open_link(path: Path) -> Link:
    """Read a site's `link.toml`. Raises: ConfigError."""
    return build(Link, read_toml(path / LINK), "link")


def create(folder: Path, link: Link, sites: Sequence[str], recipe: Path | None, valid: timedelta = VALID) -> list[Path]:
    """Write `ca/`, `server/` and `sites/NAME/`; the folders to carry to their machines. Raises: ConfigError."""
    check_names(link, sites)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: the folder exists and is not empty; allowed is a new one")
    server = folder.resolve() / "server"
    for path in (folder / "ca", server / "nodes"):
        path.mkdir(parents=True, mode=0o700)
    keys = certificates(folder / "ca", server, link, valid)
    for name in (SECRET, OPERATOR):
        write_private(server / name, secrets.token_hex(32).encode())
    signer = apps.new_key(folder / "ca" / apps.SIGNER)
    apps.save(apps.signed(apps.thinwire_app(), folder / "ca" / apps.SIGNER), server)
    quorum = max(1, len(sites) - len(sites) // 4)
    values = {**asdict(link), "rules": {**asdict(Rules()), "quorum": quorum}}
    (server / SERVER).write_text(tomli_w.dumps(values))
    source = recipe or Path(__file__).parents[1] / "default.toml"
    shutil.copy(source, server / "recipe.toml")
    unit(server / "thinwire-server.service", f"thinwire federation {link.name}, server", "serve", server)
    parts = [server]
    for name in sites:
        site = folder.resolve() / "sites" / name
        site.mkdir(parents=True, mode=0o700)
        shutil.copy(keys, site / CA)
        (site / apps.TRUSTED).write_bytes(signer)
        node_key(site / KEY, server / "nodes" / f"{name}.pub")
        (site / LINK).write_text(tomli_w.dumps(asdict(link)))
        (site / "site.toml").write_text(SITE.format(name=name, federation=link.name))
        unit(site / "thinwire-site.service", f"thinwire federation {link.name}, site {name}", "join", site)
        parts.append(site)
    return parts


SITE = """name = "{name}"
federation = "{federation}"

[data]
source = "data"            # a folder or file beside this one, or an absolute path; `generator` for a try
# clients = ["{name}"]       # which file or domain of the source is this site's, if it holds several
# instruction = "instruction"
# response = "response"

[model]
name = "embedded"          # or the folder of this site's copy of the recipe's base

[limits]                   # where this site can do less than the recipe asks for; allowed with some methods
# rank = 8                 # largest rank it trains
# density = 0.1            # largest share of entries it is sent and sends

# [privacy]                # what this site asks for, whatever the server's recipe says
# level = "example"
# budget = 8.0

# [methods]                # code of methods that thinwire does not have: name, and SHA-256 of its file
# "my_file.py:MyMethod" = "..."

[trainer]
idle = 900.0               # seconds without work after which the memory is given back
device = "auto"
"""


def check_names(link: Link, sites: Sequence[str]) -> None:
    """Raises: ConfigError for a name that is not a plain word, a name given twice, an address without a port."""
    for what, name in [("--name", link.name), *(("--sites", site) for site in sites)]:
        if not WORD.fullmatch(name):
            raise ConfigError(f"{what} {name!r}: allowed are letters, digits, dot, dash and underscore")
    if twice := sorted({site for site in sites if sites.count(site) > 1}):
        raise ConfigError(f"--sites {twice[0]!r}: given twice; allowed is every site once")
    host, _, port = link.address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"--address {link.address!r}: allowed is HOST:PORT")
    try:
        ipaddress.ip_address(link.host)
    except ValueError:
        raise ConfigError(f"--host {link.host!r}: allowed is an address of this machine, 0.0.0.0 for all") from None
    if not 0 <= link.port < 65536:
        raise ConfigError(f"--port {link.port}: allowed is 1 to 65535, or 0 for the address's")


def certificates(ca: Path, server: Path, link: Link, valid: timedelta) -> Path:
    """A certificate authority in `ca/`, and the server's certificate, signed by it; where the authority's lies."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    authority, own = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    title = f"thinwire {link.name}"
    root = (
        unsigned(title, authority, title, valid)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA384())
    )
    host = link.address.rpartition(":")[0].strip("[]")
    names = list(dict.fromkeys([host, "localhost", "127.0.0.1"]))
    leaf = (
        unsigned(host[:64], own, title, valid)
        .add_extension(x509.SubjectAlternativeName([alternative(each) for each in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA384())
    )
    for path, key in ((ca / "ca.key", authority), (server / "server.key", own)):
        write_private(path, pem(key))
    for path, certificate in ((ca / CA, root), (server / CA, root), (server / "server.crt", leaf)):
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return ca / CA


def loopback_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key: files that are written anew at each call."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP384R1())
    made = (
        unsigned("127.0.0.1", key, "127.0.0.1", VALID)
        .add_extension(x509.SubjectAlternativeName([alternative("127.0.0.1")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA384())
    )
    folder.mkdir(mode=0o700, exist_ok=True)
    certificate, secret = folder / "loopback.crt", folder / "loopback.key"
    secret.unlink(missing_ok=True)
    write_private(secret, pem(key))
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return certificate, secret


def unsigned(subject: str, key: Any, issuer: str, valid: timedelta) -> Any:
    """A certificate's names, key and dates, to be completed and signed."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    def name(text: str) -> Any:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name(issuer), name(subject), key.public_key(), x509.random_serial_number())
    return builder.not_valid_before(now - timedelta(days=7)).not_valid_after(now + valid)


def pem(key: Any) -> bytes:
    """A private key as text, not encrypted."""
    from cryptography.hazmat.primitives import serialization

    plain = serialization.NoEncryption()
    return bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))


def usage(signs_certificates: bool) -> Any:
    """What a certificate's key is for: to sign certificates, or to prove who a server is."""
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def alternative(host: str) -> Any:
    """A host as a certificate names it: an address or a name."""
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def node_key(private: Path, public: Path) -> None:
    """A SuperNode's key pair: the private key stays at the site, the public one is registered at the server."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP384R1())
    form = serialization.PrivateFormat.OpenSSH
    write_private(private, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    ssh = serialization.PublicFormat.OpenSSH
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.OpenSSH, ssh))


def unit(path: Path, title: str, command: str, folder: Path) -> None:
    """A systemd unit; its paths are those of this machine and may need an edit on the other."""
    path.write_text(
        f"[Unit]\nDescription={title}\nAfter=network-online.target\nWants=network-online.target\n\n"
        f"[Service]\nExecStart={sys.executable} -m thinwire federation {command} {folder}\n"
        "Restart=always\nRestartSec=5\nKillMode=mixed\nUMask=0077\nNoNewPrivileges=yes\n\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )
