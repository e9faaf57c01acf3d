"""Commands that need no running server: what is exported, forgotten, stopped and shown of a run that stands still."""

from __future__ import annotations

import shutil

import pytest
import torch

pytest.importorskip("flwr", reason="the extra flower is not installed")

from tests.federation.conftest import NAMES, local, make_site, run
from tests.simulation.conftest import place, recipe, settings  # noqa: F401
from thinwire.cli import main
from thinwire.engine.rounds import AllUploadsRefused
from thinwire.flower.control import progress


@pytest.fixture(scope="module")
def halted_run(place, recipe, tmp_path_factory):  # noqa: F811
    """Three sites and a run that lost its quorum after two rounds, to be copied before use."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("halted")
    sites = {name: make_site(folder / "sites" / name, name, place) for name in NAMES}
    transport = local(sites)
    transport.spoil = lambda node, request, reply: None if request.round == 2 and request.task == "round" else reply
    with pytest.raises(AllUploadsRefused):
        run(recipe(run={"references": False}), folder / "run", transport)
    return folder


@pytest.fixture
def halted(halted_run, tmp_path):
    """A copy of it."""
    return shutil.copytree(halted_run, tmp_path / "halted")


def test_the_adapter_so_far_can_be_exported(halted, place, recipe, capsys):  # noqa: F811
    assert main(["export", str(halted / "run"), "--to", str(halted / "out")]) == 0
    assert "after 2 rounds" in capsys.readouterr().out
    sites = {name: make_site(halted / "again" / name, name, place) for name in NAMES}
    horizon = recipe(run={"references": False}, federation={"rounds": 2}, train={"horizon": 4})
    adapter = run(horizon, halted / "two", local(sites))[2]
    assert (halted / "out" / "adapter_model.safetensors").read_bytes() == adapter


def test_progress_is_that_of_rounds_that_counted(halted):
    shown = progress(halted / "run")
    assert (shown["round"], shown["rounds"], shown["finished"]) == (2, 4, False)
    assert shown["loss"] > 0


def test_what_a_site_keeps_is_forgotten_on_command(halted, capsys):
    site = halted / "sites" / "beta"
    assert list((site / "state" / "words").iterdir())
    assert main(["federation", "forget", str(site)]) == 0
    assert "deleted" in capsys.readouterr().out
    assert not list((site / "state" / "words").iterdir())
    assert (site / "audit.jsonl").exists()


def test_no_trainer_to_stop_is_no_error(halted, capsys):
    assert main(["federation", "stop", str(halted / "sites" / "beta")]) == 0
    assert "no trainer" in capsys.readouterr().out


def test_a_server_that_does_not_run_is_an_error_without_a_traceback(tmp_path, capsys):
    folder = tmp_path / "f"
    assert main(["federation", "init", str(folder), "--address", "localhost:1", "--sites", "a"]) == 0
    assert main(["federation", "status", str(folder / "server")]) == 1
    assert "thinwire: the server says" in capsys.readouterr().err


def test_a_run_that_the_server_does_not_take_leaves_no_directory(tmp_path, capsys):
    folder = tmp_path / "f"
    assert main(["federation", "init", str(folder), "--address", "localhost:1", "--sites", "a"]) == 0
    assert main(["federation", "submit", str(folder / "server")]) == 1
    assert "thinwire: the server says" in capsys.readouterr().err
    assert not list((folder / "server" / "runs").iterdir())
    assert not (folder / "server" / "going").exists()


@pytest.mark.parametrize(("name", "word"), [("local", "nothing travels"), ("centralised", "nothing travels")])
def test_what_cannot_run_across_sites_is_refused_before_it_is_sent(tmp_path, capsys, name, word):
    folder = tmp_path / "f"
    assert main(["federation", "init", str(folder), "--address", "localhost:1", "--sites", "a"]) == 0
    assert main(["federation", "submit", str(folder / "server"), "--set", f"method.name={name}"]) == 2
    assert word in capsys.readouterr().err
