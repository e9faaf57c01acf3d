"""Whole runs of classifiers: many clients of one data set, per-client figures, resume, what travels."""

from __future__ import annotations

import json

import pytest

from tests.simulation.conftest import perform, resumed, sentence, timeless
from tests.tiny_models import save_tiny
from thinwire.config import from_dict
from thinwire.session.exporting import export_run
from thinwire.session.loaded import open_session
from thinwire.settings import ConfigError
from thinwire.simulation.run import checked
from thinwire.storage.directory import RunDirectory

COUNT = 24


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A folder with the models `llama` and `bert`, and `topics`: five classes, each with words of its own."""
    folder = tmp_path_factory.mktemp("classes")
    for architecture in ("llama", "bert"):
        save_tiny(architecture, folder / architecture)
    (folder / "data").mkdir()
    for split, count in (("train", 12), ("test", 6)):
        rows = [
            {"text": f"w{2 + 9 * topic + index % 9} {sentence(1000 * topic + index, 2)}", "label": f"topic{topic}"}
            for topic in range(5)
            for index in range(count)
        ]
        (folder / "data" / f"topics.{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe(classes, model="llama", rounds=3, **sections):
    data = {"task": "sequence", "source": str(classes / "data"), "partition": "dirichlet", "count": COUNT, "alpha": 0.2}
    table = {
        "model": {"name": str(classes / model)},
        "lora": {"rank": 4},
        "data": {**data, "max_length": 16, **sections.pop("data", {})},
        "federation": {"rounds": rounds, "clients_per_round": 6, **sections.pop("federation", {})},
        "method": {"name": "fedit"},
        "train": {"steps": 4, "batch": 4, "learning_rate": 5e-3, **sections.pop("train", {})},
        "run": {"threads": 1, **sections.pop("run", {})},
    }
    return checked(from_dict({**table, **sections}))


@pytest.fixture(scope="module")
def done(classes, tmp_path_factory):
    return perform(recipe(classes, run={"evaluate_every": 2}), tmp_path_factory.mktemp("news") / "run")


def test_the_summary_has_one_domain_and_figures_over_clients(done):
    summary = done.summary
    assert (summary["task"], summary["clients"]) == ("sequence", COUNT)
    assert summary["classes"] == [f"topic{topic}" for topic in range(5)]
    for name in ("loss", "score", "accuracy", "macro_f1"):
        assert set(summary[name]) == {"topics"}
        assert set(summary[name]["topics"]) == {"before", "after"}, "24 clients are not also trained alone"
        assert set(summary["over_clients"][name]) == {"before", "after"}
        assert set(summary["over_clients"][name]["after"]) == {"mean", "worst_decile", "spread"}
    assert summary["score"] == summary["accuracy"]
    assert summary["loss"]["topics"]["after"] < summary["loss"]["topics"]["before"]
    assert "token_accuracy" not in summary


def test_every_client_with_test_examples_is_in_the_file_and_they_add_up(done):
    rows = json.loads((done.directory.path / "clients.json").read_text())
    assert len(rows) == done.summary["over_clients"]["clients"] <= COUNT
    total = sum(row["examples"] for row in rows.values())
    assert total == 30
    for name in ("loss", "accuracy"):
        pooled = sum(row["examples"] * row["after"][name] for row in rows.values()) / total
        assert pooled == pytest.approx(done.summary[name]["topics"]["after"], rel=1e-6)
        values = [row["after"][name] for row in rows.values()]
        over = done.summary["over_clients"][name]["after"]
        assert over["mean"] == pytest.approx(sum(values) / len(values))
        worst = sorted(values, reverse=name == "loss")[: -(-len(values) // 10)]
        assert over["worst_decile"] == pytest.approx(sum(worst) / len(worst))


def test_evaluations_on_the_way_have_every_metric_by_domain_and_client(done):
    (line,) = [line for line in done.directory.lines() if "evaluation" in line]
    assert set(line["domains"]["topics"]) == {"loss", "score", "accuracy", "macro_f1"}
    assert line["domains"]["topics"]["loss"] == line["evaluation"]["topics"] == line["loss"]
    assert 0 < len(line["clients"]) <= COUNT
    assert all(set(row) == {"loss", "score", "accuracy", "macro_f1"} for row in line["clients"].values())


def test_the_head_does_not_travel_at_the_start_and_is_trained(classes, done):
    first = [line for line in done.directory.lines() if line["round"] == 1 and "client" in line]
    assert max(line["bytes_down"] for line in first) < 300
    session = open_session(recipe(classes))
    assert set(session.start.extras) == {"score.weight"}
    assert done.summary["trainable_parameters"] == session.start.parameters


def test_a_resumed_run_of_a_classifier_ends_as_the_straight_one(classes, done, tmp_path):
    half = recipe(classes, rounds=2, run={"evaluate_every": 2}, train={"horizon": 3})
    perform(half, tmp_path / "run")
    other = resumed(tmp_path / "run", 3)
    assert other.adapter == done.adapter
    assert timeless(RunDirectory(tmp_path / "run")) == timeless(done.directory)


@pytest.mark.parametrize("method", ["fedsrd", "fedsrd-e", "ffa-lora", "local", "centralised"])
def test_any_method_trains_an_encoder_that_classifies(classes, tmp_path, method):
    federation = {"clients_per_round": 12}
    changes = {"method": {"name": method}, "federation": federation, "run": {"evaluate_every": 0}}
    summary = perform(recipe(classes, "bert", rounds=2, **changes), tmp_path / "run").summary
    assert summary["loss"]["topics"]["after"] < summary["loss"]["topics"]["before"]
    assert summary["over_clients"]["clients"] > 10


def test_references_of_few_clients_are_their_own_specialists(classes, tmp_path):
    changes = {"data": {"count": 3}, "federation": {"clients_per_round": None}}
    summary = perform(recipe(classes, rounds=1, **changes), tmp_path / "run").summary
    assert set(summary["accuracy"]["topics"]) == {"before", "own", "after"}
    assert set(summary["over_clients"]["accuracy"]) == {"before", "own", "after"}
    rows = json.loads((tmp_path / "run" / "clients.json").read_text())
    assert all(set(row) == {"examples", "before", "own", "after"} for row in rows.values())


def test_words_of_a_sentence_are_classified(classes, tmp_path):
    def tagged(index):
        numbers = [int(word[1:]) % 8 for word in sentence(index, 3 + index % 4).split()]
        return {"text": [f"w{8 + n}" for n in numbers], "label": ["odd" if n % 2 else "even" for n in numbers]}

    lines = "".join(json.dumps(tagged(index)) + "\n" for index in range(60))
    (tmp_path / "tags.jsonl").write_text(lines)
    fields = {"task": "token", "source": str(tmp_path / "tags.jsonl"), "partition": "iid", "count": 3}
    federation = {"clients_per_round": None}
    train = {"steps": 60, "batch": 8, "learning_rate": 3e-3}
    made = recipe(classes, "bert", 2, data=fields, federation=federation, train=train, run={"references": False})
    summary = perform(made, tmp_path / "run").summary
    assert summary["classes"] == ["even", "odd"]
    assert summary["accuracy"]["tags"]["after"] > 0.8 > summary["accuracy"]["tags"]["before"]


def test_images_train_a_random_base_of_which_only_the_seed_travels(tmp_path):
    def picture(index):
        return {"image": [[(index * 7 + 30 * (index % 2) * row) % 256] * 8 for row in range(8)], "label": index % 2}

    (tmp_path / "bars.jsonl").write_text("".join(json.dumps(picture(index)) + "\n" for index in range(80)))
    table = {
        "model": {"name": "resnet8", "width": 8},
        "lora": {"rank": 4, "alpha": 64.0, "targets": ["conv1", "conv2"], "extras": ["stem", "all-norm"]},
        "data": {"task": "image", "source": str(tmp_path / "bars.jsonl"), "partition": "iid", "count": 20},
        "federation": {"rounds": 4, "clients_per_round": 5},
        "method": {"name": "fedsrd"},
        "train": {"steps": 4, "batch": 4, "learning_rate": 5e-3, "augment": ["flip", "crop"]},
        "run": {"threads": 1},
    }
    done = perform(checked(from_dict(table)), tmp_path / "run")
    assert done.summary["loss"]["bars"]["after"] < done.summary["loss"]["bars"]["before"]
    first = [line for line in done.directory.lines() if line["round"] == 1 and "client" in line]
    assert max(line["bytes_down"] for line in first) < 300
    table["federation"]["rounds"] = 2
    table["train"]["horizon"] = 4
    perform(checked(from_dict(table)), tmp_path / "half")
    assert resumed(tmp_path / "half", 4).adapter == done.adapter
    with pytest.raises(ConfigError, match="--merged: transformers has no resnet8 of this kind"):
        export_run(done.directory, tmp_path / "whole", merged=True)


def test_a_text_longer_than_the_model_takes_is_refused_before_training(classes):
    with pytest.raises(ConfigError, match=r"data\.max_length = 65: the model takes at most 64 tokens"):
        open_session(recipe(classes, "bert", data={"max_length": 65}))
