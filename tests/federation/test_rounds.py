"""A run across sites is the simulation's run, to the last bit, whatever breaks on the way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.federation.conftest import local, make_site, opened, run
from thinwire.engine.rounds import AllUploadsRefused, RunStopped
from thinwire.federation.messages import Reply
from thinwire.federation.settings import load_site
from thinwire.federation.site import Trainers
from thinwire.storage.directory import RunDirectory


class Killed(BaseException):
    """Stands in for SIGKILL."""


def test_equals_the_simulation_to_the_last_bit(quick_recipe, straight_quick, sites, tmp_path):
    transport = local(sites)
    summary, told, adapter = run(quick_recipe, tmp_path / "run", transport)
    assert adapter == straight_quick.adapter
    theirs = straight_quick.summary
    for figure in ("loss", "score", "best_round", "bytes_up", "bytes_down"):
        assert summary[figure] == theirs[figure], figure
    assert all("counted" in text for text in told)
    assert [trainers.loads for trainers in transport.trainers.values()] == [1, 1, 1]
    lines = [entry for entry in RunDirectory(tmp_path / "run").lines() if "client" in entry]
    assert [entry["status"] for entry in lines] == ["counted"] * 12
    same = ("round", "client", "loss", "bytes_up", "density", "status")
    local_lines = [entry for entry in straight_quick.directory.lines() if "client" in entry]
    assert [[entry[key] for key in same] for entry in lines] == [[entry[key] for key in same] for entry in local_lines]
    state = sites["beta"] / "state" / "words" / summary["run"]
    assert (state / "adapter" / "adapter_model.safetensors").read_bytes() == adapter


def test_a_second_run_loads_nothing(brief, sites, tmp_path):
    transport = local(sites)
    one = run(brief, tmp_path / "one", transport)
    two = run(brief, tmp_path / "two", transport)
    assert one[2] == two[2]
    assert one[0]["run"] != two[0]["run"]
    assert [trainers.loads for trainers in transport.trainers.values()] == [1, 1, 1]


@pytest.mark.parametrize("moment", range(4, 33, 14))
def test_killing_the_server_at_any_message_changes_nothing(quick_recipe, straight_quick, sites, tmp_path, moment):
    """Sites keep what they sent: a repeated request is answered with the same bytes, without training."""
    transport = local(sites)

    def kill(node, request, reply):
        if len(transport.asked) == moment:
            raise Killed
        return reply

    transport.spoil = kill
    with pytest.raises(Killed):
        run(quick_recipe, tmp_path / "run", transport)
    transport.spoil = lambda node, request, reply: reply
    assert run(quick_recipe, tmp_path / "run", transport)[2] == straight_quick.adapter


@pytest.mark.parametrize("moment", range(5, 33, 12))
def test_killing_a_site_at_any_message_changes_nothing(quick_recipe, straight_quick, sites, tmp_path, moment):
    """Its reply is lost and its memory is gone; its disk remains. The quorum makes the server repeat the round."""
    transport = local(sites)
    killed = []

    def kill(node, request, reply):
        if len(transport.asked) == moment:
            killed.append(node)
            transport.trainers[node] = Trainers(transport.trainers[node].site, "words")
            return "the node was killed"
        return reply

    transport.spoil = kill
    _, told, adapter = run(quick_recipe, tmp_path / "run", transport)
    assert killed
    assert adapter == straight_quick.adapter
    assert any("the node was killed" in text for text in told)


def test_rounds_without_one_site_go_on_and_it_catches_up(quick_recipe, sites, tmp_path, caplog):
    transport = local(sites)

    def vanish(node, request, reply):
        return None if node == 12 and request.task == "round" and request.round in (1, 2) else reply

    transport.spoil = vanish
    summary, told, _ = run(quick_recipe, tmp_path / "run", transport, quorum=2)
    lines = [entry for entry in RunDirectory(tmp_path / "run").lines() if entry.get("client") == "beta"]
    assert [entry["status"].split(":")[0] for entry in lines] == ["counted", "refused", "refused", "counted"]
    assert [text for text in caplog.messages if "did not count" in text] == [
        f"round {number}: the upload did not count; it goes out with round {number + 1}" for number in (2, 3)
    ]
    assert any("round 2: beta refused: no answer in time" in text for text in told)
    state = sites["beta"] / "state" / "words" / summary["run"] / "adapter" / "adapter_model.safetensors"
    assert state.read_bytes() == (tmp_path / "run" / "adapter" / "adapter_model.safetensors").read_bytes()


def test_without_a_quorum_the_run_stops_loudly_and_can_go_on(quick_recipe, straight_quick, sites, tmp_path):
    transport = local(sites)
    transport.spoil = lambda node, request, reply: None if request.round == 2 and node == 13 else reply
    with pytest.raises(AllUploadsRefused, match="round 3: no quorum of 3 in 3 attempts"):
        run(quick_recipe, tmp_path / "run", transport)
    transport.spoil = lambda node, request, reply: reply
    assert run(quick_recipe, tmp_path / "run", transport)[2] == straight_quick.adapter


def test_too_few_sites_stop_the_run_by_name(quick_recipe, sites, tmp_path):
    del sites["gamma"]
    with pytest.raises(RunStopped, match=r"there are 2 sites \(alpha, beta\); the quorum is 3"):
        run(quick_recipe, tmp_path / "run", local(sites), patience=0.2)


BAD = {
    "another run's reply": (lambda r: replace(r, run="other"), "its reply is of run 'other'"),
    "a replay of an earlier round": (lambda r: replace(r, round=0), "its reply is of round 1, asked was 2"),
    "an earlier payload": (None, "version"),
    "garbage": (lambda r: replace(r, blobs=(b"garbage",)), ""),
    "a cut payload": (lambda r: replace(r, blobs=(r.blob[:-40],)), ""),
    "no payload": (lambda r: replace(r, blobs=()), "it sent no upload"),
    "another site's name": (lambda r: replace(r, site="gamma"), "its reply is of site 'gamma'"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_upload_is_refused_and_named_and_the_others_count(brief, sites, tmp_path, kind):
    transport, first = local(sites), {}
    three = replace(brief, federation=replace(brief.federation, rounds=3))
    spoil, words = BAD[kind]

    def bad(node, request, reply):
        if request.task == "round" and request.round == 0:
            first[node] = reply
        if request.task != "round" or request.round != 1 or node != 12:
            return reply
        return spoil(reply) if spoil else replace(reply, blobs=first[node].blobs)

    transport.spoil = bad
    _, told, _ = run(three, tmp_path / "run", transport, quorum=2)
    assert any(text.startswith("round 2: beta refused: ") and words in text for text in told), told
    lines = [entry for entry in RunDirectory(tmp_path / "run").lines() if entry.get("client") == "beta"]
    assert [entry["status"] == "counted" for entry in lines] == [True, False, True]


def test_metrics_that_are_no_numbers_do_no_harm(brief, sites, tmp_path):
    transport = local(sites)
    facts = {"loss": "nan", "density": [1], "seconds": 10**400}
    transport.spoil = lambda node, request, reply: (
        replace(reply, facts=facts) if request.task in ("round", "evaluate") and node == 12 else reply
    )
    _, told, adapter = run(brief, tmp_path / "run", transport)
    assert any("evaluate: beta: no scores" in text for text in told)
    assert adapter


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base": "0" * 64}, "the base model's weights"),
        ({"tokenizer": "0" * 64}, "the tokenizer"),
        ({"template": "0" * 64}, "the template"),
        ({"wire": 9}, "the wire format"),
        ({"examples": 0}, "its number of examples is 0"),
    ],
)
def test_a_site_that_does_not_fit_is_refused_by_name(brief, sites, tmp_path, change, words):
    transport = local(sites)
    transport.spoil = lambda node, request, reply: (
        replace(reply, facts={**reply.facts, **change}) if node == 11 and request.task == "hello" else reply
    )
    _, told, _ = run(brief, tmp_path / "run", transport, quorum=2)
    assert any(text.startswith("site 'gamma' (node 11) is refused: ") and words in text for text in told), told


def test_the_second_of_one_name_is_refused(brief, sites, place, tmp_path):
    transport = local(sites)
    twin = make_site(tmp_path / "twin", "beta", place)
    transport.trainers[99] = Trainers(load_site(twin), "words")
    _, told, _ = run(brief, tmp_path / "run", transport)
    assert "site 'beta' (node 99) is refused: node 12 is 'beta' already" in told


BAD_SCORES = {
    "no number": {"loss": "small"},
    "not finite": {"loss": float("nan")},
    "far too large": {"loss": 10**400},
    "no truth": {"accuracy": True},
    "unknown": {"los": 1.0},
    "nothing": {"examples": None},
}


@pytest.mark.parametrize("kind", BAD_SCORES)
def test_scores_that_are_none_are_left_out_by_name(brief, sites, tmp_path, kind):
    transport = local(sites)
    good = {"loss": 1.0, "accuracy": 0.5, "exact": 0.5, "macro_f1": None, "targets": 9, "examples": 3}

    def spoil(node, request, reply):
        scored = request.task == "evaluate" and node == 12
        return replace(reply, facts={"beta": {**good, **BAD_SCORES[kind]}}) if scored else reply

    transport.spoil = spoil
    _, told, _ = run(brief, tmp_path / "run", transport)
    assert any("evaluate: beta: no scores" in text for text in told), told
    line = next(entry for entry in RunDirectory(tmp_path / "run").lines() if "evaluation" in entry)
    assert sorted(line["evaluation"]) == ["alpha", "gamma"]


def test_a_refused_site_is_asked_again_once_it_was_away(quick_recipe, sites, tmp_path):
    transport, seen = local(sites), []

    def spoil(node, request, reply):
        if request.task == "hello" and node == 11:
            seen.append(request.round)
            if len(seen) == 1:
                return replace(reply, facts={**reply.facts, "base": "0" * 64})
        if request.task == "evaluate" and node == 12 and len(seen) == 1:
            transport.nodes = lambda: [12, 13] if len(seen) == 1 and not seen.append("away") else [11, 12, 13]
        return reply

    transport.spoil = spoil
    _, told, _ = run(quick_recipe, tmp_path / "run", transport, quorum=2)
    assert any("site 'gamma' (node 11) is refused" in text for text in told)
    lines = [entry for entry in RunDirectory(tmp_path / "run").lines() if entry.get("client") == "gamma"]
    assert lines
    assert all(entry["status"] == "counted" for entry in lines)


def test_a_round_in_which_all_drop_out_counts_as_in_the_simulation(recipe, sites, tmp_path):
    from tests.simulation.conftest import perform

    dropping = recipe(federation={"drop": 0.9, "rounds": 3}, run={"references": False, "evaluate_every": 0})
    _, _, adapter = run(dropping, tmp_path / "run", local(sites), quorum=1)
    assert adapter == perform(dropping, tmp_path / "straight").adapter


def test_a_site_that_comes_back_as_another_node_goes_on(quick_recipe, straight_quick, sites, tmp_path):
    transport = local(sites)

    def move(node, request, reply):
        if request.task == "evaluate" and request.round == 2 and node == 12:
            transport.trainers[77] = transport.trainers.pop(12)
        return reply

    transport.spoil = move
    _, told, adapter = run(quick_recipe, tmp_path / "run", transport)
    assert adapter == straight_quick.adapter
    assert "round 3: beta is gone" in told


def test_simulated_drop_outs_are_the_simulation_s(recipe, sites, tmp_path):
    from tests.simulation.conftest import perform

    dropping = recipe(federation={"drop": 0.4}, run={"references": False})
    _, _, adapter = run(dropping, tmp_path / "run", local(sites), quorum=1)
    assert adapter == perform(dropping, tmp_path / "straight").adapter


@pytest.fixture
def quick_recipe(recipe):
    return recipe(run={"references": False})


@pytest.fixture
def brief(recipe):
    """One round, scored once: for what is decided at a first meeting."""
    return recipe(federation={"rounds": 1}, run={"references": False, "evaluate_every": 1})


def test_reply_of_a_trainer_never_raises(sites):
    trainers = Trainers(load_site(sites["alpha"]), "words")
    reply = trainers.answer(next(iter(requests_of_nothing())))
    assert isinstance(reply, Reply)
    assert reply.problem == "unknown"


def requests_of_nothing():
    from thinwire.federation.messages import Request

    yield Request("round", "unknown-run")


def test_the_coordinator_names_a_damaged_checkpoint(quick_recipe, straight_quick, sites, tmp_path):
    transport = local(sites)
    transport.spoil = lambda node, request, reply: None if request.round == 3 else reply
    with pytest.raises(AllUploadsRefused):
        run(quick_recipe, tmp_path / "run", transport)
    newest = sorted((tmp_path / "run" / "checkpoint").glob("[0-9]*"))[-1] / "server.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    transport.spoil = lambda node, request, reply: reply
    _, told, adapter = run(quick_recipe, tmp_path / "run", transport)
    assert any("damaged" in text for text in told)
    assert adapter  # sites are a round ahead: their uploads are made anew, so the end may differ


def test_opened_twice_is_the_same_run(quick_recipe, tmp_path):
    assert opened(quick_recipe, tmp_path / "run")[0].run == opened(quick_recipe, tmp_path / "run")[0].run
