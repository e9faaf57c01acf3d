"""Progress stays short, however many clients there are."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Progress

from thinwire.report.live import SHOWN, Live
from thinwire.storage.state import Totals


def shown(clients: int, troubled: int, rounds: int = 1) -> list[str]:
    """What is printed while so many clients play, the first ones dropping out."""
    console = Console(file=io.StringIO(), width=200)
    live = Live(console, Progress(console=console, disable=True))
    live.phase("FedSRD", rounds)
    for number in range(rounds):
        for index in range(clients):
            gone = index < troubled
            status = "dropped out" if gone else "counted"
            live.line({"round": number, "client": f"client-{index}", "loss": None if gone else 1.0, "status": status})
        live.round(SimpleNamespace(round=number + 1, totals=Totals()))
    return console.file.getvalue().splitlines()


def test_few_clients_are_named_with_their_loss():
    lines = shown(3, 1)
    assert "note: round 1: client-0 dropped out" in lines
    assert "client-0 - client-1 1.000 client-2 1.000" in lines[-1]


@pytest.mark.parametrize("rounds", [1, 3])
def test_hundreds_of_clients_take_a_few_lines_a_round(rounds):
    lines = shown(805, 500, rounds)
    assert len(lines) == 1 + rounds * (SHOWN + 2)
    assert f"note: round {rounds}: {500 - SHOWN} more clients did not count; see metrics.jsonl" in lines
    assert "805 clients, loss 1.000" in lines[-2]
    assert max(map(len, lines)) < 120
