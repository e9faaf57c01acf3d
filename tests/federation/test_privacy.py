"""Privacy across sites: the simulation's bits, a secret a site, a budget each, and no noise twice."""

from __future__ import annotations

import json
import stat
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.federation.conftest import NAMES, local, opened, problems, run
from tests.simulation.conftest import perform
from thinwire.engine.rounds import RunStopped
from thinwire.federation.audit import FILE as AUDIT
from thinwire.federation.drive import drive
from thinwire.federation.messages import BUDGET, PROBLEMS, Request
from thinwire.federation.site import Trainers
from thinwire.federation.store import forget
from thinwire.privacy.accountant import ADD_OR_REMOVE, REPLACE, epsilon
from thinwire.settings import ConfigError
from thinwire.storage import checkpoint
from thinwire.storage.directory import RunDirectory
from thinwire.storage.ledger import FILE, spent_in
from thinwire.wire import Expect, unpack

SPENT = PROBLEMS[BUDGET]

CENTRAL = {"level": "client", "noise": "central", "clip": 0.5, "delta": 1e-5, "noise_multiplier": 4.0}
LOCAL = CENTRAL | {"noise": "local"}
EXAMPLE = {"level": "example", "clip": 0.5, "delta": 1e-3, "noise_multiplier": 2.0}
KINDS = {"central": (CENTRAL, "fedsrd"), "local": (LOCAL, "fedsrd-e"), "example": (EXAMPLE, "fedsrd")}
QUICK = {"references": False, "evaluate_every": 0}

COST = {
    "central": lambda rounds: epsilon({(3, 3): rounds}, 4.0, 1e-5, ADD_OR_REMOVE),
    "local": lambda rounds: epsilon({(1, 1): rounds}, 4.0, 1e-5, REPLACE),
    "example": lambda rounds: epsilon({(4, 12): 2 * rounds}, 2.0, 1e-3, ADD_OR_REMOVE),
}
"""Epsilon by hand: three sites; uploads; 4 of 12 examples in each of 2 steps a round."""

OF_SITES = ["local", pytest.param("example", marks=[pytest.mark.slow, pytest.mark.long])]
"""Kinds of noise that sites add. Of gradients, which take longest, what is the same for both is asked in long tests."""


class Killed(BaseException):
    """Stands in for SIGKILL."""


def wanted(recipe, kind, privacy=None, **more):
    base, method = KINDS[kind]
    return recipe(**{"privacy": base | (privacy or {}), "method": {"name": method}, "run": QUICK, **more})


def without_noise_multiplier(privacy):
    return {key: value for key, value in privacy.items() if key != "noise_multiplier"}


def straight(recipe, folder: Path) -> tuple[dict, bytes]:
    done = perform(recipe, folder)
    return done.summary, done.adapter


def states(sites, name) -> Path:
    """Where a site keeps its one run."""
    (folder,) = (sites[name] / "state" / "words").iterdir()
    return folder


def audit(sites, name) -> list[dict]:
    return [json.loads(text) for text in (sites[name] / AUDIT).read_text().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_with_the_run_s_seed_it_is_the_simulation_to_the_last_bit(recipe, sites, tmp_path, kind):
    asked = wanted(recipe, kind)
    summary, told, adapter = run(asked, tmp_path / "run", local(sites))
    theirs, expected = straight(asked, tmp_path / "straight")
    assert adapter == expected
    assert {**summary["privacy"], "noise_multipliers": None} == {**theirs["privacy"], "noise_multipliers": None}
    assert summary["privacy"]["epsilon"] == COST[kind](4)
    assert told[-1] == f"round 4/4 counted, epsilon {COST[kind](4):.3g} (delta {asked.privacy.delta:.0e})"
    costs = [line["epsilon"] for line in RunDirectory(tmp_path / "run").lines() if "epsilon" in line]
    assert costs == [COST[kind](rounds) for rounds in (1, 2, 3, 4)]


def test_clients_drawn_each_by_itself_are_the_simulation_s(recipe, sites, tmp_path):
    asked = wanted(recipe, "central", federation={"rounds": 6, "clients_per_round": 2, "sampling": "poisson"})
    summary, _, adapter = run(asked, tmp_path / "run", local(sites))
    theirs, expected = straight(asked, tmp_path / "straight")
    assert adapter == expected
    assert summary["privacy"] == theirs["privacy"]
    assert summary["privacy"]["epsilon"] == epsilon({(2, 3): 6}, 4.0, 1e-5, ADD_OR_REMOVE)


@pytest.mark.parametrize("kind", ["central", *OF_SITES])
def test_killing_server_or_site_at_any_message_changes_no_byte_and_costs_nothing(recipe, sites, tmp_path, kind):
    """Every message is interrupted once: the server dies, and the site that answered last loses its memory."""
    asked = wanted(recipe, kind, federation={"rounds": 2})
    _, expected = straight(asked, tmp_path / "straight")
    transport, seen = local(sites), set()

    def kill(node, request, reply):
        key = node, request.task, request.round
        if key not in seen:
            seen.add(key)
            transport.trainers[node] = Trainers(transport.trainers[node].site, "words")
            raise Killed
        return reply

    transport.spoil = kill
    for _ in range(50):
        try:
            summary, _, adapter = run(asked, tmp_path / "run", transport)
            break
        except Killed:
            continue
    assert len(seen) == 15
    assert adapter == expected
    assert summary["privacy"]["epsilon"] == COST[kind](2)


@pytest.mark.parametrize("kind", ["local", "example"])
def test_every_site_has_a_secret_of_its_own_and_sends_it_to_nobody(recipe, sites, tmp_path, kind):
    transport, sent = local(sites), []
    transport.spoil = lambda node, request, reply: sent.append((vars(request), vars(reply))) or reply
    summary, _, adapter = run(wanted(recipe, kind, {"seed": "system"}), tmp_path / "run", transport)
    assert adapter != run(wanted(recipe, kind), tmp_path / "open", transport)[2]
    assert summary["privacy"]["secret_seed"]
    secrets = {}
    for name in NAMES:
        folder = sites[name] / "state" / "words" / summary["run"]
        assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600
        secrets[name] = (folder / "secret").read_text().strip()
        others = [path for path in sites[name].rglob("*") if path.is_file() and path.name != "secret"]
        assert not any(secrets[name].encode() in path.read_bytes() for path in others)
    assert len(set(secrets.values())) == 3
    assert all(len(secret) == 64 and secret not in repr(sent) for secret in secrets.values())
    assert not (tmp_path / "run" / "checkpoint" / "secret").exists()
    assert all(str(int(secret, 16)) not in repr(sent) for secret in secrets.values())
    gone = forget(sites["alpha"], "words", summary["run"])
    assert not (gone[0] / "secret").exists()


def test_the_server_s_secret_lies_beside_its_checkpoints_and_is_read_again(recipe, sites, tmp_path):
    asked, transport = wanted(recipe, "central", {"seed": "system"}), local(sites)
    transport.spoil = lambda node, request, reply: None if request.round == 2 else reply
    with pytest.raises(RunStopped):
        run(asked, tmp_path / "run", transport)
    secret = tmp_path / "run" / "checkpoint" / "secret"
    kept = secret.read_text()
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert not [path for name in NAMES for path in (sites[name] / "state").rglob("secret")]
    transport.spoil = lambda node, request, reply: reply
    summary = run(asked, tmp_path / "run", transport)[0]
    assert secret.read_text() == kept
    assert summary["privacy"]["epsilon"] == COST["central"](4)
    secret.unlink()
    with pytest.raises(ConfigError, match="secret is missing or damaged"):
        run(asked, tmp_path / "run", transport)


@pytest.mark.parametrize("lost", ["secret", FILE])
@pytest.mark.parametrize("kind", OF_SITES)
def test_a_site_that_lost_secret_or_record_trains_no_more_and_says_so(recipe, sites, tmp_path, kind, lost):
    transport = local(sites)

    def lose(node, request, reply):
        if node == 12 and request.task == "round" and request.round == 1:
            (states(sites, "beta") / lost).unlink()
        return reply

    transport.spoil = lose
    _, told, _ = run(wanted(recipe, kind, {"seed": "system"}), tmp_path / "run", transport, quorum=2)
    assert sum("beta refused: " in text and PROBLEMS["state"] in text for text in told) == 2
    assert all(lost in line["text"] and "missing or damaged" in line["text"] for line in problems(sites["beta"]))
    assert not (states(sites, "beta") / lost).exists(), "nothing is drawn anew in its place"


@pytest.mark.parametrize("kind", OF_SITES)
def test_what_was_sent_counts_whether_it_arrived_or_not_and_a_round_sat_out_does_not(recipe, sites, tmp_path, kind):
    """Beta's upload of round 2 is lost; gamma joins in round 3; a repeated request is free."""
    transport, again = local(sites), []

    def spoil(node, request, reply):
        if request.task != "round":
            return reply
        again.append(transport.there_and_back(node, request) == reply)
        return replace(reply, blobs=(b"lost",)) if (node, request.round) == (12, 1) else reply

    transport.spoil = spoil
    asked = wanted(recipe, kind, federation={"first_round": {"gamma": 3}})
    summary, _, _ = run(asked, tmp_path / "run", transport, quorum=1)
    costs = {"alpha": COST[kind](4), "beta": COST[kind](4), "gamma": COST[kind](2)}
    assert summary["privacy"]["clients"] == costs
    assert {name: spent_in(states(sites, name))["epsilon"] for name in NAMES} == costs
    assert again == [True] * 10


def test_an_upload_that_missed_its_round_is_within_the_next_one_s_clip(recipe, sites, tmp_path):
    """Without noise, so that the norm can be seen; then nothing bounds epsilon."""
    privacy = LOCAL | {"noise_multiplier": 0.0, "clip": 0.01}
    asked = recipe(privacy=privacy, method={"name": "fedit"}, run=QUICK, federation={"rounds": 3})
    transport, norms = local(sites), {}

    def lose(node, request, reply):
        if request.task == "round":
            leaves = unpack(reply.blob, Expect()).leaves
            norms[node, request.round] = sum(float(leaf.dense().square().sum()) for leaf in leaves.values()) ** 0.5
        return replace(reply, blobs=(b"lost",)) if (node, request.task, request.round) == (12, "round", 1) else reply

    transport.spoil = lose
    summary, told, _ = run(asked, tmp_path / "run", transport, quorum=2)
    assert "round 3: beta: its upload of round 2 missed its round and is part of this one's" in told
    assert all(norm == pytest.approx(0.01, rel=0.01) for norm in norms.values())
    assert len(norms) == 9
    assert summary["privacy"]["epsilon"] == float("inf")
    assert told[-1] == "round 3/3 counted, epsilon inf (delta 1e-05)"


@pytest.mark.parametrize("kind", ["local", "example"])
def test_every_line_of_the_log_says_what_was_spent_and_no_loss_leaves(recipe, sites, tmp_path, kind):
    asked = wanted(recipe, kind, run={"references": False, "evaluate_every": 1})
    run(asked, tmp_path / "run", local(sites))
    lines = audit(sites, "beta")
    rounds = 0
    for line in lines:
        rounds += line["task"] == "round"
        protects = "client" if kind == "local" else "example of a client"
        multiplier = asked.privacy.noise_multiplier
        assert line["privacy"] == {
            "epsilon": COST[kind](rounds),
            "delta": asked.privacy.delta,
            "protects": protects,
            "noise_multiplier": multiplier,
        }
        if line["task"] == "round":
            assert set(line["facts"]) == {"density", "privacy"}
    assert rounds == 4
    losses = [line["loss"] for line in RunDirectory(tmp_path / "run").lines() if "client" in line]
    assert losses == [None] * 12


def test_without_privacy_the_log_says_nothing_of_it(recipe, sites, tmp_path):
    summary, _, _ = run(recipe(run=QUICK, federation={"rounds": 1}), tmp_path / "run", local(sites))
    assert summary["privacy"] is None
    assert all(line["privacy"] == {} for line in audit(sites, "beta"))
    assert not [path for name in NAMES for path in (sites[name] / "state").rglob(FILE)]


def test_every_site_chooses_its_noise_by_its_own_number_of_examples(recipe, sites, tmp_path):
    """Beta has half the examples, so it needs more noise for the same epsilon; the rounds planned are four."""
    path = sites["beta"] / "data" / "beta.train.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:6]))
    privacy = without_noise_multiplier(EXAMPLE) | {"epsilon": 6.0}
    asked = recipe(privacy=privacy, run=QUICK)
    summary, told, _ = run(asked, tmp_path / "run", local(sites))
    chosen, costs = summary["privacy"]["noise_multipliers"], summary["privacy"]["clients"]
    assert chosen["alpha"] == chosen["gamma"] < chosen["beta"]
    for name, count in (("alpha", 12), ("beta", 6)):
        assert costs[name] == epsilon({(4, count): 8}, chosen[name], 1e-3, ADD_OR_REMOVE)
        assert 5.9 < costs[name] <= 6.0
    assert summary["privacy"]["budget"] == 6.0
    assert summary["privacy"]["stopped"] is None
    assert not any(SPENT in text for text in told)


def budget_after(kind, rounds) -> float:
    return (COST[kind](rounds) + COST[kind](rounds + 1)) / 2


@pytest.mark.parametrize("kind", ["central", *OF_SITES])
def test_the_budget_ends_the_run_before_the_round_too_many_and_a_resume_does_not_go_on(recipe, sites, tmp_path, kind):
    asked, transport = wanted(recipe, kind, {"budget": budget_after(kind, 2)}), local(sites)
    summary, told, adapter = run(asked, tmp_path / "run", transport)
    assert summary["rounds"] == 2
    assert summary["privacy"]["epsilon"] == COST[kind](2)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["privacy"] == summary["privacy"]
    if kind == "central":
        why = f"round 3 would bring epsilon to {COST[kind](3):.4g}; the budget is {budget_after(kind, 2):.4g}"
    else:
        why = f"{SPENT} at alpha, beta, gamma; 0 sites are left, the quorum is 3"
        assert any(f"alpha refused: {SPENT} (see" in text for text in told)
        assert "round 3 would bring epsilon to" in problems(sites["alpha"])[-1]["text"]
    assert summary["privacy"]["stopped"] == why
    assert told[-1] == f"stopped after round 2: {why}"
    again, _, later = run(asked, tmp_path / "run", transport)
    assert (again["rounds"], later) == (2, adapter)
    assert again["privacy"] == summary["privacy"]


@pytest.mark.parametrize("kind", OF_SITES)
def test_a_site_whose_budget_is_spent_is_left_out_and_the_others_go_on(recipe, sites, tmp_path, kind):
    """Gamma joins late and so can go on when the others have spent theirs."""
    late = {"rounds": 9, "first_round": {"gamma": 2}}
    asked = wanted(recipe, kind, {"budget": budget_after(kind, 2)}, federation=late)
    summary, told, _ = run(asked, tmp_path / "run", local(sites), quorum=1)
    lines = [line for line in RunDirectory(tmp_path / "run").lines() if "client" in line]
    counted = Counter(line["client"] for line in lines if line["status"] == "counted")
    assert counted == {"alpha": 2, "beta": 2, "gamma": 2}
    assert summary["rounds"] == 3
    assert Counter(line["client"] for line in lines if SPENT in line["status"]) == {"alpha": 1, "beta": 1, "gamma": 1}
    assert (
        summary["privacy"]["stopped"] == "privacy budget spent at alpha, beta, gamma; 0 sites are left, the quorum is 1"
    )
    assert summary["privacy"]["clients"] == dict.fromkeys(NAMES, COST[kind](2))
    assert told[-1].startswith("stopped after round 3: ")


def test_a_budget_below_the_first_round_is_refused_by_every_site(recipe, sites, tmp_path):
    coordinator, told = opened(wanted(recipe, "example", {"budget": 0.01}), tmp_path / "run", patience=0.1)
    with pytest.raises(RunStopped, match="there are 0 sites"):
        drive(coordinator, local(sites), 4)
    assert sum(f"is refused: {PROBLEMS['privacy']}" in text for text in told) == 3
    words = "privacy.budget = 0.01: round 1 would bring epsilon to"
    assert all(words in problems(site)[-1]["text"] for site in sites.values())


def test_an_absent_site_changes_neither_the_divisor_nor_the_books(recipe, sites, tmp_path):
    """Beta's node is gone after round 1: two of three come, and the sum is divided by three."""
    transport = local(sites)

    def leave(node, request, reply):
        if request.task == "round" and request.round == 0 and len(transport.trainers) == 3 and node == 11:
            del transport.trainers[12]
        return reply

    transport.spoil = leave
    summary, told, _ = run(wanted(recipe, "central"), tmp_path / "run", transport, quorum=2)
    assert "round 2: beta is gone" in told
    assert summary["rounds"] == 4
    releases = json.loads((tmp_path / "run" / "checkpoint" / FILE).read_text())["releases"]
    assert [(entry["round"], entry["drawn"], entry["among"]) for entry in releases] == [(n, 3, 3) for n in range(4)]
    assert summary["privacy"]["epsilon"] == COST["central"](4)


def test_a_server_that_was_started_again_knows_whom_it_has_met(recipe, sites, tmp_path):
    """Beta's node is gone after round 1, with and without a kill of the server at that moment."""
    asked, adapters = wanted(recipe, "central"), []
    for name in ("straight", "killed"):
        transport = local(sites)

        def leave(node, request, reply, transport=transport, name=name):
            if (node, request.task, request.round) == (11, "round", 1) and 12 in transport.trainers:
                del transport.trainers[12]
                if name == "killed":
                    raise Killed
            return "gone" if node == 12 and request.round == 1 else reply

        transport.spoil = leave
        if name == "killed":
            with pytest.raises(Killed):
                run(asked, tmp_path / name, transport, quorum=2)
        adapters.append(run(asked, tmp_path / name, transport, quorum=2)[2])
        releases = json.loads((tmp_path / name / "checkpoint" / FILE).read_text())["releases"]
        assert [(entry["drawn"], entry["among"]) for entry in releases] == [(3, 3)] * 4
    assert adapters[0] == adapters[1]


def test_a_round_without_a_quorum_releases_nothing_and_its_repetition_is_the_straight_round(recipe, sites, tmp_path):
    asked, transport, held = wanted(recipe, "central"), local(sites), []
    _, expected = straight(asked, tmp_path / "straight")

    def late(node, request, reply):
        if request.task == "round" and request.round == 1 and node == 13 and not held:
            held.append(json.loads((tmp_path / "run" / "checkpoint" / FILE).read_text())["releases"])
            return None
        return reply

    transport.spoil = late
    summary, told, adapter = run(asked, tmp_path / "run", transport)
    assert "round 2: no quorum in attempt 1" in told
    assert len(held[0]) == 1
    assert adapter == expected
    assert summary["privacy"]["epsilon"] == COST["central"](4)


def test_a_round_that_was_shown_and_comes_out_differently_gets_other_noise_and_counts(recipe, sites, tmp_path):
    """The newest checkpoint is damaged, so the server plays a round again that sites have seen, now without one."""
    asked, transport = wanted(recipe, "central"), local(sites)
    transport.spoil = lambda node, request, reply: None if request.round == 3 else reply
    with pytest.raises(RunStopped):
        run(asked, tmp_path / "run", transport)
    newest = sorted((tmp_path / "run" / "checkpoint").glob("[0-9]*"))[-1] / "server.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    transport.spoil = lambda node, request, reply: None if request.round == 2 and node == 12 else reply
    summary, _, _ = run(asked, tmp_path / "run", transport, quorum=2)
    releases = json.loads((tmp_path / "run" / "checkpoint" / FILE).read_text())["releases"]
    assert [entry["round"] for entry in releases] == [0, 1, 2, 2, 3]
    assert len({entry["sha256"] for entry in releases}) == 5
    whole = epsilon({(3, 3): 4, (1, 1): 1}, 4.0, 1e-5, ADD_OR_REMOVE)
    assert summary["privacy"]["epsilon"] == pytest.approx(whole)


@pytest.mark.parametrize("kind", OF_SITES)
def test_a_site_asked_for_a_round_anew_after_its_state_was_lost_never_shows_the_same_noise_twice(
    recipe, sites, tmp_path, kind
):
    """With its state it sends the same bytes; without, another upload under fresh noise, which counts."""
    transport, uploads = local(sites), []
    transport.spoil = lambda node, request, reply: uploads.append(reply) or reply
    asked = wanted(recipe, kind, train={"keep_optimizer": True})
    run(asked, tmp_path / "run", transport)
    request = [request for node, request in transport.asked if node == 12 and request.task == "round"][-1]
    folder = states(sites, "beta")
    same = transport.there_and_back(12, request)
    (folder / "state.safetensors").unlink()
    state = opened(asked, tmp_path / "run")[0].state.server.state
    anew = replace(request, blobs=(state,), version=4)
    other = transport.there_and_back(12, anew)
    assert other.problem == ""
    assert other.blob != same.blob
    assert [release["round"] for release in json.loads((folder / FILE).read_text())["releases"]] == [0, 1, 2, 3, 3]
    assert other.facts["privacy"]["epsilon"] == COST[kind](5)
    assert transport.there_and_back(12, anew).blob == other.blob


@pytest.mark.parametrize("kind", OF_SITES)
def test_a_site_killed_between_record_and_state_sends_the_same_bytes_and_counts_once(
    recipe, sites, tmp_path, kind, monkeypatch
):
    from thinwire.federation.store import Store

    asked, transport = wanted(recipe, kind), local(sites)
    _, expected = straight(asked, tmp_path / "straight")
    real, killed = Store.save, []

    def save(self, saved):
        if saved.round == 1 and self.folder.parents[2].name == "beta" and not killed:
            killed.append(json.loads((self.folder / FILE).read_text())["releases"])
            raise Killed
        real(self, saved)

    monkeypatch.setattr(Store, "save", save)
    with pytest.raises(Killed):
        run(asked, tmp_path / "run", transport)
    assert len(killed[0]) == 2
    transport.trainers = local(sites).trainers
    summary, _, adapter = run(asked, tmp_path / "run", transport)
    assert adapter == expected
    assert summary["privacy"]["clients"] == dict.fromkeys(NAMES, COST[kind](4))


@pytest.mark.parametrize("absent", [False, True], ids=["same uploads", "others"])
def test_a_server_killed_between_record_and_checkpoint_shows_one_sum_or_counts_two(
    recipe, sites, tmp_path, monkeypatch, absent
):
    asked, transport = wanted(recipe, "central"), local(sites)
    _, expected = straight(asked, tmp_path / "straight")
    real, killed = checkpoint.save, []

    def save(state, folder, *more):
        if state.round == 2 and not killed:
            killed.append(json.loads((folder / FILE).read_text())["releases"])
            raise Killed
        return real(state, folder, *more)

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(Killed):
        run(asked, tmp_path / "run", transport)
    assert len(killed[0]) == 2
    transport.spoil = lambda node, request, reply: None if absent and (node, request.round) == (12, 1) else reply
    summary, _, adapter = run(asked, tmp_path / "run", transport, quorum=2)
    assert (adapter == expected) is not absent
    again = {(1, 1): 1} if absent else {}
    assert summary["privacy"]["epsilon"] == epsilon({(3, 3): 4} | again, 4.0, 1e-5, ADD_OR_REMOVE)


def test_another_privacy_for_a_run_that_goes_on_is_refused(recipe, sites, tmp_path):
    from dataclasses import asdict

    transport, asked = local(sites), wanted(recipe, "example")
    summary, _, _ = run(asked, tmp_path / "run", transport)
    for weaker in ({**EXAMPLE, "noise_multiplier": 0.1}, {}):
        changed = {**asdict(asked), "privacy": weaker}
        reply = transport.there_and_back(12, Request("hello", summary["run"], recipe=changed))
        assert reply.problem == "privacy"
        assert "this run began with" in problems(sites["beta"])[-1]["text"]


def asks(sites, name, text):
    path = sites[name] / "site.toml"
    path.write_text(f"{path.read_text()}\n[privacy]\n{text}\n")


@pytest.mark.parametrize(
    ("kind", "changes", "text", "words"),
    [
        (None, {}, 'level = "example"', "level = None, noise = None, seed = 'run': this site allows level = example"),
        ("example", {}, 'level = "example"', "seed = 'run': this site allows level = example with seed = system only"),
        ("central", {"seed": "system"}, 'level = "client"', "noise = 'central', seed = 'system': this site allows"),
        ("local", {"seed": "system"}, 'level = "example"', "this site allows level = example"),
        ("example", {"delta": 0.5}, "delta = 0.01", "privacy.delta = 0.5: this site allows at most 0.01"),
    ],
)
def test_a_site_refuses_a_recipe_that_promises_less_than_it_asks_for(
    recipe, sites, tmp_path, kind, changes, text, words
):
    asks(sites, "beta", text)
    asked = wanted(recipe, kind, changes) if kind else recipe(run=QUICK)
    one = replace(asked, federation=replace(asked.federation, rounds=1))
    _, told, _ = run(one, tmp_path / "run", local(sites), quorum=2)
    refused = f"site 'beta' (node 12) is refused: {PROBLEMS['privacy']}"
    assert any(text.startswith(refused) for text in told), told
    assert words in problems(sites["beta"])[-1]["text"]
    assert not any(line["sha256"] for line in audit(sites, "beta"))


def test_a_site_s_own_budget_holds_whatever_the_recipe_allows(recipe, sites, tmp_path):
    asks(sites, "beta", f'level = "example"\nbudget = {budget_after("example", 2)}')
    transport = local(sites)
    summary, _, _ = run(wanted(recipe, "example", {"seed": "system"}), tmp_path / "run", transport, quorum=2)
    spent = {"alpha": COST["example"](4), "beta": COST["example"](2), "gamma": COST["example"](4)}
    assert summary["privacy"]["clients"] == spent


def test_sets_of_fixed_size_are_refused_where_sites_keep_something(recipe, tmp_path):
    with pytest.raises(ConfigError, match="they keep error feedback; allowed is"):
        opened(wanted(recipe, "central", federation={"clients_per_round": 2}), tmp_path / "run")


def test_sets_of_fixed_size_are_counted_as_such(recipe, sites, tmp_path):
    more = {"federation": {"rounds": 2, "clients_per_round": 2}, "train": {"keep_optimizer": False}}
    asked = recipe(privacy=CENTRAL, method={"name": "fedit"}, run=QUICK, **more)
    summary, _, adapter = run(asked, tmp_path / "run", local(sites))
    theirs, expected = straight(asked, tmp_path / "straight")
    assert adapter == expected
    assert summary["privacy"] == theirs["privacy"]
    assert summary["privacy"]["epsilon"] == epsilon({(2, 3): 2}, 4.0, 1e-5, REPLACE)


def test_the_server_chooses_its_noise_for_the_sites_that_are_there(recipe, sites, tmp_path):
    privacy = without_noise_multiplier(CENTRAL) | {"epsilon": 3.0}
    summary, _, adapter = run(recipe(privacy=privacy, run=QUICK), tmp_path / "run", local(sites))
    theirs, expected = straight(recipe(privacy=privacy, run=QUICK), tmp_path / "straight")
    assert adapter == expected
    assert summary["privacy"] == theirs["privacy"]
