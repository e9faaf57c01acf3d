"""Progress stays short, however many clients there are."""

import io
import re
import time
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Progress

from thinwire.report import live as display
from thinwire.report.live import SHOWN, Live, progress_bar, terminal, waiting
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
            loss = None if gone else 1.0
            live.line({"round": number + 1, "client": f"client-{index}", "loss": loss, "status": status})
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


def test_a_run_in_which_nothing_travels_says_so():
    assert "nothing travels" in shown(2, 0)[-1]


def test_names_and_losses_are_no_markup():
    console = terminal(file=io.StringIO(), width=200, force_terminal=True)
    with progress_bar(console) as progress:
        live = Live(console, progress)
        live.phase("[/red] FedSRD", 1)
        live.line({"round": 1, "client": "[/bold] ward [x] :cat:\\", "loss": 1.0, "status": "refused: [/oops]"})
        live.round(SimpleNamespace(round=1, totals=Totals()))
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    assert "[/oops]" in plain
    assert "[/bold] ward [x] :cat:\\ 1.000" in plain
    assert "[/red] FedSRD" in plain


def test_scoring_shows_how_far_it_is_in_a_log_too(monkeypatch):
    monkeypatch.setattr(display, "QUIET", 0.0)
    console = Console(file=io.StringIO(), width=200)
    live = Live(console, Progress(console=console, disable=True))
    live.scoring("scoring the base", 1500)
    live.evaluated(1000)
    assert console.file.getvalue().splitlines() == ["scoring the base: 1,500 examples", "  1,000 examples so far"]


@pytest.mark.parametrize(("patience", "said"), [(0.0, ["loading [torch]"]), (60.0, [])])
def test_only_a_long_wait_is_worth_a_word(monkeypatch, capsys, patience, said):
    monkeypatch.setattr(display, "PATIENCE", patience)
    with waiting("loading [torch]"):
        time.sleep(0.1)
    assert capsys.readouterr().err.splitlines() == said
