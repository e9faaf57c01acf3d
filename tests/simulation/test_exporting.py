"""`thinwire export`: from a run's last checkpoint, by plain PEFT and transformers."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.simulation.conftest import Done, Recipes, perform
from thinwire.cli import main
from thinwire.report.table import print_summary
from thinwire.session.exporting import export_run
from thinwire.storage.directory import RunDirectory

TOKENS = torch.arange(2, 26).reshape(2, 12)


@pytest.fixture(scope="module")
def flora(recipe: Recipes, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Three rounds of FLoRA with unequal ranks."""
    torch.set_num_threads(1)
    tiers = {"rounds": 3, "ranks": [4, 2, 1]}
    made = recipe(
        method={"name": "flora"},
        federation=tiers,
        lora={"extras": []},
        run={"references": False},
        train={"keep_optimizer": False, "learning_rate": 2e-2},
    )
    return perform(made, tmp_path_factory.mktemp("flora") / "run")


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=TOKENS).logits


def base(place: Path):
    return AutoModelForCausalLM.from_pretrained(place / "model")


def test_a_run_leaves_the_merged_rounds_in_its_adapter(flora, place):
    exported = flora.summary["export"]
    assert exported["relative_error"] == 0.0
    assert exported["rank"] >= 3 * 7 - 1 or exported["rank"] == 16, "the stack of all rounds, or full rank"
    learnt = logits(peft.PeftModel.from_pretrained(base(place), flora.directory.adapter))
    assert float((learnt - logits(base(place))).abs().max()) > 0.1


def test_both_forms_are_the_run_s_own_model(flora, place, tmp_path):
    want = logits(peft.PeftModel.from_pretrained(base(place), flora.directory.adapter))
    assert main(["export", str(flora.directory.path), "--to", str(tmp_path / "adapter")]) == 0
    again = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    assert again == flora.adapter
    assert main(["export", str(flora.directory.path), "--merged", "--to", str(tmp_path / "model")]) == 0
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(logits(alone), want, rtol=1e-4, atol=1e-4)


def test_a_smaller_rank_says_what_it_costs(flora, place, tmp_path, capsys):
    assert main(["export", str(flora.directory.path), "--rank", "2", "--to", str(tmp_path / "small")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("adapter of rank 2 after 3 rounds")
    error = float(said.rpartition("relative error ")[2])
    assert 0 < error < 1
    config = json.loads((tmp_path / "small" / "adapter_config.json").read_text())
    assert config["r"] == 2
    peft.PeftModel.from_pretrained(base(place), tmp_path / "small")


def test_the_setting_does_the_same_at_the_end_of_a_run(recipe, tmp_path, capsys):
    made = recipe(
        method={"name": "flora"},
        federation={"rounds": 2},
        run={"references": False, "export_rank": 2, "evaluate_every": 1},
        train={"keep_optimizer": False},
    )
    done = perform(made, tmp_path / "run")
    assert done.summary["export"]["rank"] == 2
    assert done.summary["export"]["relative_error"] > 0
    for folder in (done.directory.adapter, done.directory.best):
        assert json.loads((folder / "adapter_config.json").read_text())["r"] == 2
    assert export_run(done.directory, tmp_path / "whole")["relative_error"] == 0.0
    print_summary(done.summary)
    assert "adapter cut to rank 2: relative error 0." in capsys.readouterr().out


def test_a_masked_model_is_what_is_evaluated_and_exported(recipe, tmp_path):
    """FLASC: the adapter of the run holds a quarter of the entries, those a client would be sent."""
    from safetensors.torch import load_file

    fields = {"name": "flasc", "down_density": 0.25, "up_density": 1.0}
    done = perform(recipe(method=fields, run={"references": False}), tmp_path / "run")
    tensors = load_file(done.directory.adapter / "adapter_model.safetensors")
    size, kept = sum(t.numel() for t in tensors.values()), sum(int(t.count_nonzero()) for t in tensors.values())
    assert kept == int(0.25 * size)
    best = load_file(done.directory.best / "adapter_model.safetensors")
    assert sum(int(t.count_nonzero()) for t in best.values()) == kept


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "--to", "x"], "no run there"),
        (["RUN", "--to", "RUN"], "exists and is not empty"),
        (["RUN", "--rank", "0", "--to", "x"], "--rank 0: allowed is an integer >= 1"),
    ],
)
def test_bad_input_is_named(flora, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *(str(flora.directory.path) if a == "RUN" else a for a in arguments)]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_checkpoints_or_a_global_adapter_is_named(recipe, straight_quick, tmp_path, capsys):
    directory = RunDirectory(tmp_path / "begun")
    directory.begin(recipe())
    assert main(["export", str(directory.path), "--to", str(tmp_path / "x")]) == 2
    assert "no checkpoint" in capsys.readouterr().err
    other = RunDirectory(tmp_path / "local")
    other.begin(recipe(method={"name": "local"}))
    assert main(["export", str(other.path), "--to", str(tmp_path / "x")]) == 2
    assert "it has no global adapter" in capsys.readouterr().err
