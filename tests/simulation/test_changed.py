"""What changed between a stop and a resume is named and refused, or accepted where that makes sense."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulation.conftest import ROUNDS, Notes
from thinwire.settings import ConfigError
from thinwire.simulation.run import longer, run
from thinwire.storage import checkpoint
from thinwire.storage.directory import RunDirectory


@pytest.fixture
def moved(half, place, tmp_path):
    """A run of half the rounds whose recipe names a copy of the base and of the data, which may be changed."""
    shutil.copytree(place, tmp_path / "copy")
    path = half / "config.json"
    values = json.loads(path.read_text())
    values["model"]["name"] = str(tmp_path / "copy" / "model")
    values["data"]["source"] = str(tmp_path / "copy" / "data")
    path.write_text(json.dumps(values))
    return half


def go_on(folder: Path, accepted=(), **changes) -> Notes:
    """Resume, with sections of the recipe changed by hand."""
    directory, notes = RunDirectory(folder), Notes()
    recipe = longer(directory.recipe(), ROUNDS)
    sections = {name: replace(getattr(recipe, name), **values) for name, values in changes.items()}
    run(replace(recipe, **sections), directory, notes, True, accepted)
    return notes


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rewrite(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_other_paths_of_the_same_base_and_data_are_no_change(moved):
    assert go_on(moved).warnings == []


def test_changed_records_are_named_and_may_be_accepted(moved, tmp_path):
    path = tmp_path / "copy" / "data" / "beta.train.jsonl"
    rewrite(path, [*lines(path)[:-1], {"instruction": "w2 w3", "response": "w4"}])
    with pytest.raises(ConfigError, match=r"the training records of beta changed .*--accept-changes data"):
        go_on(moved)
    assert [text for text in go_on(moved, {"data"}).warnings if "the training records of beta" in text]
    assert go_on(moved).warnings == []  # the newest checkpoint knows the new records


def test_changed_test_records_are_named(moved, tmp_path):
    path = tmp_path / "copy" / "data" / "alpha.test.jsonl"
    rewrite(path, lines(path)[1:])
    with pytest.raises(ConfigError, match="the test records of alpha changed"):
        go_on(moved)


def test_new_and_lost_clients_are_named_and_may_be_accepted(moved, tmp_path):
    data = tmp_path / "copy" / "data"
    for split in ("train", "validation", "test"):
        (data / f"alpha.{split}.jsonl").rename(data / f"delta.{split}.jsonl")
    with pytest.raises(ConfigError, match=r"new: delta.*gone: alpha.*--accept-changes clients,data"):
        go_on(moved)
    notes = go_on(moved, {"clients", "data"})
    assert {line["client"] for line in notes.lines} == {"beta", "delta", "gamma"}


def test_another_base_is_refused_for_good(moved, tmp_path):
    import safetensors.torch as files

    path = tmp_path / "copy" / "model" / "model.safetensors"
    tensors = files.load_file(path)
    first = sorted(tensors)[0]
    files.save_file({**tensors, first: tensors[first] + 1}, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"the base model's weights .* changed .*not allowed"):
        go_on(moved, {"data", "recipe"})


def test_another_template_or_length_is_named(half):
    with pytest.raises(ConfigError, match=r"the template .*data.max_length \(32 before, 24 now\).*recipe,template"):
        go_on(half, data={"max_length": 24})


def test_other_settings_are_named_one_by_one(half):
    with pytest.raises(ConfigError, match=r"train.learning_rate \(0.001 before, 0.0005 now\)"):
        go_on(half, train={"learning_rate": 5e-4})
    assert go_on(half, {"recipe"}, train={"learning_rate": 5e-4}).rounds[-1] == ROUNDS


@pytest.mark.parametrize("changes", [{"lora": {"alpha": 8.0}}, {"run": {"seed": 4}}])
def test_what_the_checkpoint_depends_on_stays(changes, half):
    with pytest.raises(ConfigError, match="not allowed: what is in the checkpoint depends on it"):
        go_on(half, {"recipe"}, **changes)


def test_a_checkpoint_without_fingerprints_resumes_with_a_warning(half, straight_quick):
    for path in checkpoint.checkpoints(half / "checkpoint"):
        manifest = json.loads((path / "manifest.json").read_text())
        del manifest["identity"]
        (path / "manifest.json").write_text(json.dumps(manifest))
    notes = go_on(half)
    assert [text for text in notes.warnings if "before fingerprints were kept" in text]
    adapter = (half / "adapter" / "adapter_model.safetensors").read_bytes()
    assert adapter == straight_quick.adapter
