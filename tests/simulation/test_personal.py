"""Each client's own adapters at the end of a real run: evaluated, exported, fused exactly; found after a crash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from thinwire.config import from_dict
from thinwire.report.live import watch
from thinwire.simulation.run import run
from thinwire.storage.directory import RunDirectory

TINY = {
    "lora": {"rank": 4, "alpha": 8.0},
    "data": {"clients": ["code", "math"], "train_limit": 40, "test_limit": 6, "max_length": 96},
    "train": {"steps": 1, "batch": 4, "learning_rate": 5e-3},
    "federation": {"rounds": 3},
}


def play(folder: Path, name: str, rounds: int = 3, resume: bool = False, **more):
    method = {"name": name, **({"evaluations": 5, "examples": 4} if name == "fdlora" else {})}
    values = {**TINY, "method": method, "run": {"references": False, "threads": 1, **more}}
    values["federation"] = {"rounds": rounds}
    values["train"] = {**TINY["train"], "horizon": 3}
    directory = RunDirectory(folder)
    with watch(directory.path, quiet=True) as watcher:
        return run(from_dict(values), directory, watcher, resume)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("personal") / "run"
    return folder, play(folder, "fdlora", export_clients=True, tune_steps=1)


def test_every_client_has_its_own_figures(finished):
    folder, summary = finished
    for column in ("before", "after", "personal", "fused", "tuned"):
        assert set(summary["over_clients"]["loss"][column]) == {"mean", "worst_decile", "spread"}
        assert all(column in row for row in summary["loss"].values())
    rows = json.loads((folder / "clients.json").read_text())
    assert set(rows) == {"code", "math"}
    for row in rows.values():
        assert {"loss", "score"} <= set(row["personal"])
        assert set(row["own_adapters"]) == {"w1", "w2"}


def test_the_exported_adapter_is_fused_exactly(finished):
    folder, _ = finished
    rows = json.loads((folder / "clients.json").read_text())
    shared = weights(folder / "adapter")
    for name in ("code", "math"):
        own, both = (weights(folder / "clients" / name / column) for column in ("personal", "fused"))
        w1, w2 = (rows[name]["own_adapters"][weight] for weight in ("w1", "w2"))
        assert both.keys() == own.keys() == shared.keys()
        for key, tensor in both.items():
            assert torch.equal(tensor, w1 * own[key] + w2 * shared[key])
        assert any(not torch.equal(own[key], shared[key]) for key in own)


def test_peft_loads_a_clients_adapter(finished):
    from peft import PeftModel

    from thinwire.models.base import load_base
    from thinwire.models.config import ModelConfig

    folder, _ = finished
    base = load_base(ModelConfig(), "cpu").model
    model = PeftModel.from_pretrained(base, folder / "clients" / "math" / "fused")
    held = dict(model.named_parameters())
    saved = weights(folder / "clients" / "math" / "fused")
    for key, tensor in saved.items():
        assert torch.equal(held[key.replace(".weight", ".default.weight")].detach(), tensor)


@pytest.mark.slow
def test_a_resumed_run_finds_the_personal_adapters(finished, tmp_path: Path):
    folder, _ = finished
    play(tmp_path / "run", "fdlora", rounds=2)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["federation"]["rounds"] == 2
    play(tmp_path / "run", "fdlora", rounds=3, resume=True, export_clients=True, tune_steps=1)
    for name in ("code", "math"):
        for column in ("personal", "fused"):
            one, other = (weights(where / "clients" / name / column) for where in (folder, tmp_path / "run"))
            assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_fedsa_exports_each_clients_own_b(tmp_path: Path):
    play(tmp_path / "run", "fedsa-lora", rounds=2, export_clients=True)
    shared = weights(tmp_path / "run" / "adapter")
    one, other = (weights(tmp_path / "run" / "clients" / name / "personal") for name in ("code", "math"))
    for key, tensor in shared.items():
        if "lora_A" in key:
            assert torch.equal(one[key], tensor)
        else:
            assert not torch.equal(one[key], other[key])
            assert not tensor.any()
