"""The way to a site's resident trainer: a Unix socket that only the user who owns it can reach."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from thinwire.federation import messages
from thinwire.federation.messages import Reply, Request
from thinwire.federation.problems import SiteProblem

FOLDER, NAME, LOG = "trainer", "socket", "trainer.log"


class TrainerUnreachable(SiteProblem):
    """No trainer answers, and none could be started."""

    def __init__(self, text: str) -> None:
        super().__init__("trainer", text)


def private(site: Path) -> Path:
    """The folder of the socket, mode 0700. Raises: PermissionError if somebody else owns it."""
    folder = site / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")
    folder.chmod(0o700)
    return folder


@contextlib.contextmanager
def address(folder: Path) -> Iterator[str]:
    """A short name of the socket, as addresses hold 107 bytes only."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{handle}/{NAME}"
    finally:
        os.close(handle)


def listen(site: Path) -> socket.socket:
    """The trainer's end, mode 0600; a socket that a killed trainer left is replaced."""
    folder = private(site)
    (folder / NAME).unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        with address(folder) as name:
            server.bind(name)
    finally:
        os.umask(before)
    server.listen()
    return server


def peer(connection: socket.socket) -> int:
    """The user id of the process on the other end, as the kernel knows it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[1]


def connect(site: Path) -> socket.socket:
    """The asking end. Raises: OSError if no trainer listens, PermissionError if another user's does."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with address(private(site)) as name:
            client.connect(name)
        if peer(client) != os.geteuid():
            raise PermissionError(f"{site / FOLDER}: another user's process listens there")
    except BaseException:
        client.close()
        raise
    return client


def ask(site: Path, request: Request, patience: float = 60.0, tries: int = 3) -> Reply:
    """The trainer's reply; it is started if it is not there, and asked again if it dies while it works.

    patience: seconds a trainer may take to listen. Raises: TrainerUnreachable.
    """
    for _ in range(tries):
        with contextlib.suppress(EOFError, ConnectionError), Connection(reach(site, patience).detach()) as connection:
            messages.send(connection, request)
            return messages.reply(*messages.receive(connection))
    raise TrainerUnreachable(f"the trainer of {site} ended {tries} times while it worked; see {site / FOLDER / LOG}")


def reach(site: Path, patience: float) -> socket.socket:
    """A connection to the trainer, which is started if nobody listens. Raises: TrainerUnreachable."""
    process, until = None, time.monotonic() + patience
    while True:
        try:
            return connect(site)
        except (FileNotFoundError, ConnectionRefusedError):
            if process is None:
                process = start(site)
            elif process.poll() not in (None, 0):  # 0: another trainer was first
                raise TrainerUnreachable(f"the trainer of {site} does not start; see {site / FOLDER / LOG}") from None
        if time.monotonic() > until:
            raise TrainerUnreachable(f"the trainer of {site} does not listen after {patience:g} s")
        time.sleep(0.05)


def start(site: Path) -> subprocess.Popen[bytes]:
    """A trainer in a session of its own, so that it outlives the message that needed it."""
    with (private(site) / LOG).open("ab") as log:
        command = [sys.executable, "-m", "thinwire.federation.trainer", str(site)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
