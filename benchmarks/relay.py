"""A slow link between two ports of this machine: what passes is delayed, limited in its rate, and counted.

    python benchmarks/relay.py --listen 9001 --to 127.0.0.1:8443 --megabits 20 --round-trip 50 --log link.log

All connections share the link, each direction by itself. TLS passes through as it is. A connection's first byte waits
one round trip, as TCP's handshake would make it. The link loses nothing and knows no slow start. The log gets a line
`time up down` (bytes so far, as they arrive) after every 50 ms in which something passed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, Popen
from sys import executable

PIECE = 1 << 14
"""Bytes read at once: 6.5 ms at 20 Mbit/s."""


@dataclass
class Lane:
    """One direction. rate: bytes a second; delay: seconds; free: when the last byte given to it has left."""

    rate: float
    delay: float
    free: float = 0.0
    passed: int = 0

    def reserve(self, size: int, now: float) -> float:
        """When the last of `size` more bytes leaves, if they are given now; it arrives `delay` later."""
        self.free = max(self.free, now) + size / self.rate
        return self.free


@dataclass
class Relay:
    """Both lanes and where they lead."""

    host: str
    port: int
    up: Lane
    down: Lane
    open: set[asyncio.Task[None]] = field(default_factory=set)

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection until both sides closed it."""
        task = asyncio.current_task()
        assert task is not None
        self.open.add(task)
        with contextlib.suppress(ConnectionError):
            await asyncio.sleep(self.up.delay + self.down.delay)
            there_reader, there_writer = await asyncio.open_connection(self.host, self.port)
            await asyncio.gather(carry(self.up, reader, there_writer), carry(self.down, there_reader, writer))
        writer.close()
        self.open.discard(task)

    async def log(self, path: Path) -> None:
        """Totals as they grow."""
        before = (0, 0)
        with path.open("a", buffering=1) as stream:
            while True:
                now = (self.up.passed, self.down.passed)
                if now != before:
                    stream.write(f"{time.time():.3f} {now[0]} {now[1]}\n")
                    before = now
                await asyncio.sleep(0.05)


async def carry(lane: Lane, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction of one connection: the sender waits for the lane, the receiver for the delay besides."""
    clock = asyncio.get_running_loop().time
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, data = await on_the_way.get()
            await asyncio.sleep(due - clock())
            if not data:
                break
            writer.write(data)
            lane.passed += len(data)
            await writer.drain()
        writer.close()

    delivering = asyncio.create_task(deliver())
    data = b"first"
    while data:
        try:
            data = await reader.read(PIECE)
        except ConnectionError:
            data = b""
        left = lane.reserve(len(data), clock())
        on_the_way.put_nowait((left + lane.delay, data))
        await asyncio.sleep(left - clock())
    await delivering


async def serve(listen: int, relay: Relay, log: Path) -> None:
    """Until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    server = await asyncio.start_server(relay.join, "127.0.0.1", listen, limit=PIECE)
    logging = asyncio.create_task(relay.log(log))
    await stopped.wait()
    server.close()
    for task in [logging, *relay.open]:
        task.cancel()


@contextmanager
def link(listen: int, to: int, log: Path, megabits: float, round_trip: float) -> Iterator[None]:
    """A relay process between two ports, ready when this is entered. round_trip: milliseconds."""
    words = ["--listen", listen, "--to", f"127.0.0.1:{to}", "--megabits", megabits]
    words += ["--round-trip", round_trip, "--log", log]
    process = Popen([executable, __file__, *map(str, words)], stdout=DEVNULL)
    try:
        wait_for(listen)
        yield
    finally:
        process.terminate()
        process.wait(10)


def wait_for(port: int, seconds: float = 20.0) -> None:
    """Until somebody listens on the port. Raises: TimeoutError."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"port {port}")


def passed(log: Path, moments: Sequence[float]) -> list[tuple[int, int]]:
    """Bytes up and down until each of the moments (seconds since 1970)."""
    lines = [(0.0, 0, 0)]
    for text in log.read_text().splitlines() if log.exists() else []:
        when, up, down = text.split()
        lines.append((float(when), int(up), int(down)))
    return [next((up, down) for when, up, down in reversed(lines) if when <= moment) for moment in moments]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--listen", type=int, required=True, metavar="PORT")
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument("--megabits", type=float, default=20.0, help="a second, each way")
    parser.add_argument("--round-trip", type=float, default=50.0, help="milliseconds")
    parser.add_argument("--log", type=Path, required=True)
    given = parser.parse_args()
    host, _, port = given.to.rpartition(":")
    up, down = (Lane(given.megabits * 1e6 / 8, given.round_trip / 2000) for _ in range(2))
    asyncio.run(serve(given.listen, Relay(host, int(port), up, down), given.log))


if __name__ == "__main__":
    main()
