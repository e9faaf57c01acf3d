"""The run directory by itself: names, free folders, metrics."""

from __future__ import annotations

import math

import pytest

from thinwire.settings import ConfigError
from thinwire.storage.directory import RunDirectory, free_directory
from thinwire.storage.files import append_line


@pytest.mark.parametrize(
    ("client", "folder"), [("Anna", "Anna"), ("Hamlet/HAMLET", "Hamlet%2FHAMLET"), ("../x", "%2E.%2Fx"), ("", "%")]
)
def test_a_clients_adapter_lies_in_a_folder_of_the_run(client, folder, tmp_path):
    assert RunDirectory(tmp_path).adapter_of(client) == tmp_path / "adapter" / folder


def test_an_empty_folder_is_free(tmp_path):
    RunDirectory(tmp_path).check_free()
    (tmp_path / "x").write_text("x")
    with pytest.raises(ConfigError):
        RunDirectory(tmp_path).check_free()
    assert free_directory("name", tmp_path) == tmp_path / "name"
    (tmp_path / "name").mkdir()
    (tmp_path / "name-2").mkdir()
    assert free_directory("name", tmp_path) == tmp_path / "name-3"


def test_metrics_lose_what_a_crash_cut_and_what_is_played_again(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.append([{"round": 1, "loss": 1.5}, {"round": 2, "loss": math.nan}])
    with directory.metrics.open("a") as stream:
        stream.write('{"round": 2, "los')
    assert directory.lines() == [{"round": 1, "loss": 1.5}, {"round": 2, "loss": None}]
    directory.rewind(1)
    assert directory.metrics.read_text() == '{"round": 1, "loss": 1.5}\n'


def test_metrics_that_count_rounds_from_0_are_put_right(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.append([{"round": number} for number in range(4)])
    for _ in range(2):
        directory.rewind(3)
        assert [line["round"] for line in directory.lines()] == [1, 2, 3]


def test_a_line_is_added_for_its_owner_only_and_through_no_link(tmp_path):
    log, link = tmp_path / "log.jsonl", tmp_path / "link.jsonl"
    for text in ("one", "two"):
        append_line(log, text)
    link.symlink_to(log)
    with pytest.raises(OSError, match=r"link\.jsonl"):
        append_line(link, "three")
    assert log.read_text() == "one\ntwo\n"
    assert log.stat().st_mode & 0o777 == 0o600
