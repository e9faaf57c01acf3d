"""The resident trainer: one process a site, which loads the base model once and answers over its socket until idle."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import signal
import socket
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from thinwire.federation import messages
from thinwire.federation import socket as local
from thinwire.federation.messages import MessageError, Reply, Request
from thinwire.federation.problems import code_of, keep
from thinwire.federation.settings import Site, load_site
from thinwire.settings import ConfigError

LOG = logging.getLogger("thinwire.trainer")
LOCK = "lock"
Work = tuple[Request, "Future[Reply]"]


@dataclass
class Resident:
    """Requests of any number of connections, answered one after the other in the main thread."""

    site: Site
    work: queue.SimpleQueue[Work | None] = field(default_factory=queue.SimpleQueue)

    def serve(self, server: socket.socket) -> None:
        """Answer until nothing was asked for `idle` seconds, or until `stop`."""
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()
        from thinwire.federation.site import Trainers

        trainers = Trainers(self.site, self.site.federation)
        while True:
            try:
                item = self.work.get(timeout=self.site.trainer.idle)
            except queue.Empty:
                LOG.info("idle for %g s: giving the memory back", self.site.trainer.idle)
                return
            if item is None:
                return
            request, future = item
            LOG.info("%s, run %s, round %d", request.task, request.run, request.round + 1)
            try:
                future.set_result(trainers.answer(request))
            except Exception as error:  # told to the one who asked; the trainer goes on
                LOG.exception("%s, round %d", request.task, request.round)
                future.set_exception(error)

    def stop(self) -> None:
        self.work.put(None)

    def _accept(self, server: socket.socket) -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        """One connection: requests and their replies, in order; whoever is not this user is shut out."""
        with connection, contextlib.suppress(EOFError, OSError, MessageError):
            if local.peer(connection) not in (os.geteuid(), 0):
                LOG.error("user %d was refused", local.peer(connection))
                return
            with Connection(connection.detach()) as stream:
                while True:
                    messages.send(stream, self._reply(*messages.receive(stream)))

    def _reply(self, header: str, blobs: tuple[bytes, ...]) -> Reply:
        try:
            request = messages.request(header, blobs)
        except MessageError as error:
            return Reply("", "", self.site.name, problem=keep(self.site.folder, "", "", 0, error))
        future: Future[Reply] = Future()
        self.work.put((request, future))
        try:
            return future.result()
        except Exception as error:  # it is in the log with its traceback
            return Reply(request.task, request.run, self.site.name, request.round, problem=code_of(error))


def main(arguments: list[str]) -> int:
    """`python -m thinwire.federation.trainer SITE`: 0 when it ends or another one runs already, 2 for bad settings."""
    from thinwire.report.live import silence_libraries

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    silence_libraries()
    try:
        site = load_site(Path(arguments[0]))
    except ConfigError as error:
        LOG.error("%s", error)
        return 2
    lock = os.open(local.private(site.folder) / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    resident = Resident(site)
    signal.signal(signal.SIGTERM, lambda *_: resident.stop())
    LOG.info("trainer of %s, process %d", site.name, os.getpid())
    resident.serve(local.listen(site.folder))
    return 0


def running(site: Path) -> int | None:
    """The process id of the site's trainer, None if there is none."""
    with contextlib.suppress(FileNotFoundError), (site / local.FOLDER / LOCK).open("r+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(stream.read() or 0) or None
    return None


def stop(site: Path) -> bool:
    """Ask the site's trainer to end after what it is doing; whether there was one."""
    process = running(site)
    if process is None:
        return False
    os.kill(process, signal.SIGTERM)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
