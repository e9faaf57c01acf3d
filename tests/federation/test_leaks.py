"""Nothing that leaves a site is made of its records: all messages, logs and metrics are searched for canaries."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict

import pytest

from tests.federation.conftest import NAMES, local, opened, run
from thinwire.engine.rounds import RunStopped
from thinwire.federation import audit, facts, messages
from thinwire.federation.messages import PROBLEMS, PROBLEMS_FILE, Reply, Request
from thinwire.federation.settings import load_site
from thinwire.federation.site import Trainers
from thinwire.settings import ConfigError

CANARY = "kanarie"
"""In every value, column, class, file name and folder of the sites' records."""

ROWS = [
    {"instruction": f"w2 w3 {CANARY}{k}", "response": f"w4 {CANARY}{k}", f"{CANARY}_column": k, "label": f"{CANARY}{k}"}
    for k in range(6)
]
LINES = [json.dumps(row) for row in ROWS]
TALK = {"messages": [{"role": f"{CANARY}_role", "content": CANARY}]}

TROUBLE: dict[str, tuple[dict[str, dict[str, object]], list[str]]] = {
    "none": ({}, LINES),
    "a task whose labels are words": ({"data": {"task": "token", "labels": ["a", "b"]}}, LINES),
    "a class that is not among those": ({"data": {"task": "sequence", "labels": ["a", "b"]}}, LINES),
    "classes that nobody names": ({"data": {"task": "sequence"}}, LINES),
    "a line that is not JSON": ({}, [*LINES, '{"instruction": "kanarie", ']),
    "a line that is not an object": ({}, [*LINES, '["kanarie"]']),
    "a column that is missing": ({}, [*LINES, json.dumps({f"{CANARY}_other": CANARY})]),
    "a value that is not text": ({}, [*LINES, json.dumps({"instruction": {CANARY: 1}, "response": [CANARY]})]),
    "records that are too long": ({"data": {"max_length": 8}}, LINES),
    "a conversation of unknown roles": ({"data": {"template": "chat"}}, [json.dumps(TALK)]),
    "no text at all": ({"data": {"template": "plain"}}, [json.dumps({CANARY: CANARY})]),
    "bytes that are not text": ({}, [*LINES, "\udcff kanarie"]),
    "no records": ({}, []),
    "another split": ({"data": {"held_out": "tail", "template": "plain"}}, LINES),
    "images": ({"data": {"task": "image", "labels": ["a"]}, "model": {"name": "resnet8"}}, LINES),
}


def poisoned(sites, name, lines):
    """The site's records, and where they lie, full of canaries."""
    folder = sites[name]
    for path in (folder / "data").iterdir():
        path.unlink()
    (folder / "data").rename(folder / f"{CANARY}_data")
    text = "".join(line + "\n" for line in lines)
    (folder / f"{CANARY}_data" / f"{CANARY}_{name}.train.jsonl").write_text(text, errors="surrogateescape")
    path = folder / "site.toml"
    path.write_text(path.read_text().replace('source = "data"', f'source = "{CANARY}_data"'))


def values_of(recipe, changes):
    values = asdict(recipe(run={"references": False}))
    return {name: {**table, **changes.get(name, {})} for name, table in values.items()}


@pytest.mark.parametrize("kind", TROUBLE)
def test_no_canary_leaves_a_site_in_any_trouble(recipe, sites, tmp_path, kind, caplog):
    """Every reply to every task; the owner finds the reason at home."""
    changes, lines = TROUBLE[kind]
    poisoned(sites, "beta", lines)
    trainers = Trainers(load_site(sites["beta"]), "words")
    values = values_of(recipe, changes)
    tasks = ("hello", "evaluate", "test", "finish", "round", "dance")
    for task in tasks:
        asked = Request(task, "run-1", recipe=values if task == "hello" else {}, client={"name": "beta"})
        reply = trainers.answer(asked)
        assert CANARY not in messages.header(reply)
        assert not any(CANARY.encode() in blob for blob in reply.blobs)
        facts.check_outward(reply.task, reply.site, reply.facts)
        if reply.problem:
            told = json.loads((sites["beta"] / PROBLEMS_FILE).read_text().splitlines()[-1])
            assert (told["problem"], told["task"]) == (reply.problem, task)
            assert told["text"]
    assert CANARY not in (sites["beta"] / audit.FILE).read_text()
    assert kind == "none" or (sites["beta"] / PROBLEMS_FILE).exists()


def test_no_canary_reaches_the_server_of_a_whole_run(recipe, sites, tmp_path):
    """Uploads, scores, metrics, its log and its summary; one site's records are malformed."""
    for name in NAMES:
        poisoned(sites, name, LINES if name != "gamma" else [*LINES, f"{CANARY} {{"])
    quick = recipe(run={"references": False, "evaluate_every": 1}, federation={"rounds": 2})
    transport, left = local(sites), []

    def listen(node, request, reply):
        left.append(messages.header(reply).encode() + b"".join(reply.blobs))
        return reply

    transport.spoil = listen
    summary, told, _ = run(quick, tmp_path / "run", transport, quorum=2)
    assert summary["rounds"] == 2
    assert any("'gamma'" in text and PROBLEMS["load"] in text for text in told)
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or CANARY.encode() not in path.read_bytes(), path
    assert not [blob for blob in left if CANARY.encode() in blob]
    assert CANARY not in json.dumps(told) + json.dumps(summary)


def test_a_defect_that_quotes_a_record_stays_at_home(recipe, sites, tmp_path, monkeypatch):
    def broken(*_):
        raise KeyError(CANARY)

    monkeypatch.setattr(Trainers, "hello", broken)
    coordinator, told = opened(recipe(run={"references": False}), tmp_path / "run")
    transport = local(sites)
    coordinator.meet(transport.exchange(coordinator.members.greet(transport.nodes(), 0), 1))
    assert len(told) == 3
    assert all(PROBLEMS["defect"] in text and CANARY not in text for text in told)
    assert CANARY in (sites["beta"] / PROBLEMS_FILE).read_text()
    assert (sites["beta"] / PROBLEMS_FILE).stat().st_mode & 0o777 == 0o600


def test_a_fact_that_is_not_on_the_list_does_not_leave(recipe, sites, monkeypatch):
    outside = ({CANARY: 1}, {"loss": CANARY}, {"base": CANARY}, {"metrics": {"a b": 1.0}}, {"limits": {"rank": CANARY}})
    for more in outside:
        monkeypatch.setattr(Trainers, "hello", lambda *_, more=more: more)
        trainers = Trainers(load_site(sites["beta"]), "words")
        reply = trainers.answer(Request("hello", "run-1", recipe=asdict(recipe())))
        assert (reply.problem, reply.facts) == ("defect", {}), more


@pytest.mark.parametrize("problem", ["a record", "defect: a record", "\x1b[2J", "Defect"])
def test_the_server_takes_no_problem_but_those_on_the_list(problem):
    reply = Reply("round", "r", "a", problem=problem)
    with pytest.raises(messages.MessageError, match=r"reply\.problem = .*allowed is one of") as error:
        messages.reply(messages.header(reply), ())
    assert str(error.value).isprintable()


def test_classes_of_a_site_s_own_are_never_read_from_its_records(recipe, sites):
    """Their number is in the head's shape, and their names could be guessed from a fingerprint."""
    from thinwire.config import from_dict

    values = values_of(recipe, {"data": {"task": "sequence"}})
    with pytest.raises(ConfigError, match=r"data\.labels is missing"):
        load_site(sites["beta"]).recipe(from_dict(values))


def test_an_unknown_run_is_told(sites, caplog):
    with caplog.at_level(logging.ERROR):
        reply = Trainers(load_site(sites["alpha"]), "words").answer(Request("round", "no-run"))
    assert reply.problem == "unknown"
    assert "a hello must come first" in caplog.text
    assert "round 1, round" in caplog.text
    (line,) = (sites["alpha"] / PROBLEMS_FILE).read_text().splitlines()
    assert json.loads(line)["round"] == 1, "as people count"


def test_a_run_in_which_every_site_fails_stops_by_name(recipe, sites, tmp_path):
    for name in NAMES:
        poisoned(sites, name, [])
    with pytest.raises(RunStopped):
        run(recipe(run={"references": False}), tmp_path / "run", local(sites), patience=0.1)
