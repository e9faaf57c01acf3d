"""What a run leaves: recipe, environment, metrics, summary, checkpoints, adapters."""

from __future__ import annotations

import json
import math

import peft
import pytest
import torch
import transformers

from tests.simulation.conftest import MANY, ROUNDS, perform
from thinwire import __version__, peft_bridge
from thinwire.config import from_dict
from thinwire.models.base import load_base
from thinwire.models.config import LoraConfig, ModelConfig
from thinwire.settings import ConfigError
from thinwire.storage import checkpoint

OWNERS = ("alpha", "beta", "gamma")
KEYS = {"round", "client", "loss", "bytes_up", "bytes_down", "seconds", "density", "status"}
SUMMARY = {
    "method",
    "rounds",
    "clients",
    "seed",
    "trainable_parameters",
    "bytes_up",
    "bytes_down",
    "bytes_dense_bf16",
    "reduction",
    "loss",
    "score",
    "seconds",
    "threads",
    "peak_rss_mb",
}


def test_the_recipe_is_written_resolved(straight, recipe):
    content = json.loads((straight.directory.path / "config.json").read_text())
    assert from_dict(content) == recipe()
    assert content["train"]["learning_rate"] == 1e-3, "defaults are written too"
    assert content["run"]["threads"] == 1


def test_the_environment_is_written(straight):
    content = json.loads((straight.directory.path / "environment.json").read_text())
    assert content["libraries"]["torch"] == torch.__version__
    assert content["libraries"]["peft"] == peft.__version__
    assert set(content) == {"python", "platform", "libraries", "command", "commit"}
    assert content["libraries"]["thinwire"] in (__version__, None)


def test_one_line_a_round_and_client(straight):
    lines = [line for line in straight.directory.lines() if "client" in line]
    played = [(n, name) for n in range(1, ROUNDS + 1) for name in OWNERS]
    assert [(line["round"], line["client"]) for line in lines] == played
    for line in lines:
        assert set(line) == KEYS
        assert line["status"] == "counted"
        assert math.isfinite(line["loss"])
        assert line["bytes_up"] > 0 < line["bytes_down"]
        assert line["seconds"] > 0
        assert 0 < line["density"] < 0.5
    assert lines == straight.notes.lines[: len(lines)]


def test_one_evaluation_a_round(straight):
    lines = [line for line in straight.directory.lines() if "evaluation" in line]
    assert [line["round"] for line in lines] == list(range(1, ROUNDS + 1))
    for line in lines:
        assert set(line["evaluation"]) == set(OWNERS)
        assert line["loss"] == pytest.approx(sum(line["evaluation"].values()) / 3)
    best = min(lines, key=lambda line: line["loss"])
    assert straight.summary["best_round"] == best["round"]


def test_the_summary_has_what_programs_need(straight):
    summary = json.loads((straight.directory.path / "summary.json").read_text())
    assert summary == json.loads(json.dumps(straight.summary))
    assert set(summary) >= SUMMARY
    assert (summary["method"], summary["rounds"], summary["clients"], summary["seed"]) == ("fedsrd", ROUNDS, 3, 3)
    assert set(summary["loss"]) == set(summary["score"]) == set(OWNERS)
    for name in OWNERS:
        assert set(summary["loss"][name]) == set(summary["score"][name]) == {"before", "own", "alone", "after"}
        assert summary["loss"][name]["after"] != summary["loss"][name]["before"]
        assert all(0 <= value <= 1 for value in summary["score"][name].values())
    assert set(summary["seconds"]) == {"total", "train", "method", "wire", "eval"}
    assert all(value > 0 for value in summary["seconds"].values())
    parts = sum(value for name, value in summary["seconds"].items() if name not in ("total", "wire"))
    assert parts < summary["seconds"]["total"]
    assert summary["threads"] == 1
    assert summary["peak_rss_mb"] > 50


def test_bytes_are_the_sum_of_the_lines_and_the_last_broadcast(straight):
    lines, summary = [line for line in straight.directory.lines() if "client" in line], straight.summary
    assert summary["bytes_up"] == sum(line["bytes_up"] for line in lines)
    state, _ = checkpoint.load(straight.directory.checkpoints, _start(straight), 3)
    last = 3 * len(state.server.broadcasts[ROUNDS])
    assert summary["bytes_down"] == sum(line["bytes_down"] for line in lines) + last
    tensors = dict(state.server.adapters.items())
    values = sum(tensor.numel() for tensor in tensors.values())
    assert summary["trainable_parameters"] == values
    messages = ROUNDS * 3 * 2  # every upload, and every version delivered to every client
    assert 2 * values * messages < summary["bytes_dense_bf16"] < (2 * values + 200 * len(tensors)) * messages
    assert summary["reduction"] == summary["bytes_dense_bf16"] / (summary["bytes_up"] + summary["bytes_down"])


def _start(done):
    recipe = done.directory.recipe()
    return peft_bridge.start(peft_bridge.attach(load_base(recipe.model, "cpu"), recipe.lora), recipe.run.seed)


def test_two_checkpoints_are_kept(straight):
    assert [path.name for path in checkpoint.checkpoints(straight.directory.checkpoints)] == ["000003", "000004"]
    assert sorted(path.name for path in straight.directory.checkpoints.iterdir()) == ["000003", "000004", "clients"]


def test_many_clients_are_not_trained_alone_unless_asked_for(straight_many, recipe, tmp_path):
    (warning,) = straight_many.notes.warnings
    assert warning == "24 clients are not also trained alone; run.references = true would do it"
    assert not straight_many.directory.alone.path.exists()
    assert set(straight_many.summary["score"]["alpha"]) == {"before", "after"}
    asked = {**MANY, "federation": {"rounds": 1, "clients_per_round": 3}, "run": {"references": True}}
    done = perform(recipe(**asked), tmp_path / "run")
    assert done.notes.warnings == []
    assert len(list(done.directory.alone.adapter.iterdir())) == 24
    assert set(done.summary["score"]["alpha"]) == {"before", "own", "after"}


@pytest.mark.parametrize("folder", ["adapter", "best"])
def test_peft_loads_the_adapter_and_gives_the_same_logits(straight, folder):
    recipe = straight.directory.recipe()
    path = straight.directory.path / folder
    tokens = torch.arange(24).reshape(2, 12) + 2
    plain = transformers.AutoModelForCausalLM.from_pretrained(recipe.model.name)
    theirs = peft.PeftModel.from_pretrained(plain, path).eval()
    base = load_base(recipe.model, "cpu")
    ours = peft_bridge.attach(base, recipe.lora)
    if folder == "adapter":
        state, _ = checkpoint.load(straight.directory.checkpoints, peft_bridge.start(ours, 3), 3)
        adapters = state.server.adapters
    else:
        adapters = peft_bridge.load_adapter(ours, path)
    with torch.no_grad():
        bare = peft_bridge.network(ours)(tokens).logits
        peft_bridge.write(ours, adapters)
        mine = peft_bridge.network(ours).eval()(tokens).logits
        torch.testing.assert_close(theirs(tokens).logits, mine, rtol=0, atol=1e-5)
    assert (mine - bare).abs().max() > 1e-3


def test_a_run_may_start_from_an_adapter(straight, recipe, tmp_path):
    start = str(straight.directory.adapter)
    done = perform(
        recipe(model={"adapter": start}, federation={"rounds": 1}, run={"references": False}), tmp_path / "r"
    )
    first = [line for line in done.directory.lines() if "client" in line]
    seeded = [line for line in straight.directory.lines() if "client" in line]
    assert first[0]["bytes_down"] > 10 * seeded[0]["bytes_down"], "the adapter must travel, the seed's start need not"
    for name in OWNERS:
        assert done.summary["loss"][name]["before"] == pytest.approx(straight.summary["loss"][name]["after"])


def test_references_have_a_run_of_their_own(straight):
    alone = straight.directory.alone
    assert sorted(path.name for path in alone.adapter.iterdir()) == list(OWNERS)
    assert len(alone.lines()) == ROUNDS * 3
    assert all(line["bytes_up"] == 0 for line in alone.lines())


def test_an_existing_run_is_refused_before_anything_is_loaded(straight, recipe):
    before = straight.adapter
    with pytest.raises(ConfigError, match=r"exists and is not empty; .*--resume"):
        perform(recipe(model={"name": "/nowhere"}), straight.directory.path)
    assert straight.adapter == before


def test_the_references_local_and_centralised(recipe, tmp_path):
    for name, adapters in (("local", 3), ("centralised", 1)):
        done = perform(recipe(method={"name": name}, federation={"rounds": 2}), tmp_path / name)
        assert done.summary["bytes_up"] == done.summary["bytes_down"] == 0
        assert done.summary["reduction"] is None
        assert len(list(done.directory.adapter.rglob("adapter_model.safetensors"))) == adapters
        assert ("own" in done.summary["score"]["alpha"]) == (name == "local")
        clients = {line["client"] for line in done.directory.lines()}
        assert clients == (set(OWNERS) if name == "local" else {"everyone"})


def test_with_one_client_centralised_is_local(recipe, tmp_path):
    one = {"data": {"clients": ["beta"]}, "federation": {"rounds": 2}, "run": {"references": False}}
    runs = [perform(recipe(method={"name": name}, **one), tmp_path / name) for name in ("local", "centralised")]
    assert runs[0].adapter == runs[1].adapter


def test_the_same_seed_twice_gives_the_same_bytes(straight_quick, quick, recipe, tmp_path):
    perform(quick, tmp_path / "again").same_as(straight_quick)
    other = perform(recipe(run={"references": False, "seed": 4}), tmp_path / "other")
    assert other.adapter != straight_quick.adapter


def test_references_change_nothing(straight, straight_quick):
    assert straight.adapter == straight_quick.adapter
    assert straight.summary["bytes_up"] == straight_quick.summary["bytes_up"]


def test_drop_outs_and_late_joiners_count(recipe, tmp_path):
    config = {"drop": 0.4, "first_round": {"gamma": 3}, "clients_per_round": 2}
    done = perform(recipe(federation={"rounds": 5, **config}, run={"references": False}), tmp_path / "run")
    lines = [line for line in done.directory.lines() if "client" in line]
    assert {line["status"] for line in lines} == {"counted", "dropped out"}
    assert min(line["round"] for line in lines if line["client"] == "gamma") >= 3
    assert all(len([line for line in lines if line["round"] == number]) == 2 for number in range(1, 6))
    gone = [line for line in lines if line["status"] == "dropped out"]
    assert all(line["bytes_up"] == 0 and line["loss"] is None and line["bytes_down"] > 0 for line in gone)
    assert done.summary["bytes_up"] == sum(line["bytes_up"] for line in lines)
    assert done.summary["bytes_down"] > sum(line["bytes_down"] for line in lines)
    joined = min((line for line in lines if line["client"] == "gamma"), key=lambda line: line["round"])
    assert joined["bytes_down"] > lines[0]["bytes_down"], "a late joiner is sent all that it missed"


def test_lora_settings_reach_the_adapter(straight):
    content = json.loads((straight.directory.adapter / "adapter_config.json").read_text())
    assert content["r"] == straight.directory.recipe().lora.rank == 4
    assert content["modules_to_save"] == ["model.norm"]
    assert LoraConfig().rank == 16
    assert ModelConfig().name == "embedded"
