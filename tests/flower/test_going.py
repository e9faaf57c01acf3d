"""When `serve` submits a run again, when it does not, and when it gives up: against a server that is made up."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="the extra flower is not installed")

from thinwire.config import from_dict
from thinwire.flower import control, going
from thinwire.flower.control import ControlError
from thinwire.flower.folder import Link, ServerFolder, create, open_server
from thinwire.settings import ConfigError
from thinwire.storage.directory import RunDirectory

TRAFFIC = {"inbound-bytes": 100, "outbound-bytes": 70}


@dataclass
class Flower:
    """Flower's runs by id, and what was told."""

    server: ServerFolder
    run: Path
    statuses: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def submit(self, server: ServerFolder, output: Path) -> str:
        number = str(100 + len(self.statuses))
        self.statuses[number] = "running"
        control.write_json(output / control.RUNS, [*control.flower_runs(output), number])
        return number

    def runs(self, server: ServerFolder) -> list[dict[str, Any]]:
        return [{"run-id": n, "status": s, "network-traffic": TRAFFIC} for n, s in self.statuses.items()]

    def tend(self) -> list[str]:
        """What was told in one pass."""
        self.told.clear()
        going.tend(self.server, self.told.append)
        return self.told

    def counted(self, rounds: int) -> None:
        lines = [{"round": number + 1, "client": "a", "status": "counted"} for number in range(rounds)]
        (self.run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def flower(tmp_path, monkeypatch) -> Flower:
    create(tmp_path / "f", Link("f", "localhost:1", "127.0.0.1"), ["a"], None)
    made = Flower(open_server(tmp_path / "f" / "server"), tmp_path / "run")
    monkeypatch.setattr(control, "submit", made.submit)
    monkeypatch.setattr(control, "runs", made.runs)
    RunDirectory(made.run).begin(from_dict({}))
    assert going.begin(made.server, made.run) == "100"
    return made


def test_a_run_that_goes_on_is_left_alone(flower):
    assert flower.tend() == []
    flower.statuses["100"] = "finished:failed"
    with going.playing(flower.run):
        assert flower.tend() == []
    assert flower.statuses.keys() == {"100"}


def test_a_run_that_would_end_the_same_is_not(flower):
    flower.statuses["100"] = "finished:failed"
    (flower.run / going.HOPELESS).write_text("round 2: the server's change is not usable")
    assert flower.tend() == [f"{flower.run}: round 2: the server's change is not usable; it is not submitted again"]
    assert going.going(flower.server) == []
    going.begin(flower.server, flower.run)
    assert not (flower.run / going.HOPELESS).exists(), "by hand it may be tried again"


def test_an_interrupted_run_is_submitted_again(flower):
    flower.counted(2)
    flower.statuses["100"] = "finished:failed"
    assert "was interrupted after round 2; it is submitted again, try 1 of 3" in flower.tend()[0]
    assert flower.statuses["101"] == "running"
    assert [entry.run for entry in going.going(flower.server)] == ["101"]
    assert flower.tend() == []


def test_without_a_round_more_it_is_given_up_after_a_few_tries(flower):
    for number in range(going.TRIES):
        flower.statuses[str(100 + number)] = "finished:failed"
        assert f"try {number + 1} of 3" in flower.tend()[0]
    flower.statuses["103"] = "finished:completed"
    words = flower.tend()[0]
    assert "no round in 3 tries since round 0; it is given up" in words
    assert f"--resume {flower.run}" in words
    assert going.going(flower.server) == []


def test_a_round_more_begins_the_count_anew(flower):
    for number in range(2 * going.TRIES):
        flower.statuses[str(100 + number)] = "finished:failed"
        flower.counted(number + 1)
        assert "try 1 of 3" in flower.tend()[0]


@pytest.mark.parametrize("status", ["finished:stopped", None])
def test_a_run_that_was_stopped_or_forgotten_is_not_submitted_again(flower, status):
    flower.statuses["100"] = status
    if status is None:
        flower.statuses.clear()
    assert "is not submitted again" in flower.tend()[0]
    assert flower.tend() == []
    assert going.going(flower.server) == []


def test_a_run_whose_directory_is_gone_is_forgotten(flower):
    shutil.rmtree(flower.run)
    assert flower.tend() == [f"{flower.run} is gone: run 100 is not submitted again"]
    assert flower.tend() == []


def test_a_finished_run_gets_flower_s_count_of_all_its_submissions(flower):
    flower.statuses["100"] = "finished:failed"
    flower.tend()
    (flower.run / "summary.json").write_text('{"bytes_up": 90, "bytes_down": 60}')
    assert flower.tend() == [], "Flower's run has not ended yet"
    flower.statuses["101"] = "finished:completed"
    assert flower.tend() == []
    summary = json.loads((flower.run / "summary.json").read_text())
    assert summary["flower"] == {"runs": ["100", "101"], "bytes_up": 200, "bytes_down": 140}
    assert going.going(flower.server) == []


def test_a_count_with_a_hole_is_none(flower):
    assert control.traffic(flower.run, []) is None
    assert control.overview(flower.run, flower.runs(flower.server))["flower"]["bytes_up"] == 100


def test_submitting_by_hand_takes_the_place_of_what_waits(flower):
    going.begin(flower.server, flower.run)
    assert [entry.run for entry in going.going(flower.server)] == ["101"]


def test_one_process_plays_a_run(flower):
    with going.playing(flower.run):
        assert going.played(flower.run)
        with pytest.raises(ConfigError, match="another process plays this run"), going.playing(flower.run):
            pass
    assert not going.played(flower.run)


def test_a_server_that_does_not_answer_is_told_and_asked_again(flower, monkeypatch, capsys):
    def away(server: ServerFolder) -> list[str]:
        raise ControlError("no answer")

    monkeypatch.setattr(going, "answered", lambda server: True)
    monkeypatch.setattr(control, "register", away)
    keeper = going.Keeper(flower.server)
    keeper()
    assert "not ready yet: no answer" in capsys.readouterr().err
    monkeypatch.setattr(control, "register", lambda server: ["a"])
    keeper.due = 0.0
    keeper()
    keeper.due = 0.0
    keeper()
    assert capsys.readouterr().out.count("serving f on port 1, 1 sites") == 2
