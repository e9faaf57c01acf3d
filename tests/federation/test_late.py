"""An upload that missed its round: part of the site's next one where changes may be added, else discarded by name."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.federation.conftest import local, run
from tests.federation.test_methods import TRAVELLING
from thinwire.compress import decode
from thinwire.method import Mean
from thinwire.methods import create
from thinwire.peft_bridge import keys_of
from thinwire.storage.directory import RunDirectory
from thinwire.wire import unpack

PLAIN = {"method": {"name": "fedit"}, "values": {"precision": "float32"}, "federation": {"rounds": 3}}
QUICK = {"run": {"references": False, "evaluate_every": 0}, "train": {"keep_optimizer": False}}


def late_in(number, lost):
    """Beta's upload of this round is lost, as if it came after the deadline; kept in `lost`."""

    def spoil(node, request, reply):
        if node == 12 and request.task == "round" and request.round == number:
            lost.append(reply.blob)
            return None
        return reply

    return spoil


def ended(recipe, sites, folder, lost):
    transport = local(sites)
    transport.spoil = late_in(1, lost)
    _, told, _ = run(recipe, folder, transport, quorum=2)
    return load_file(folder / "adapter" / "adapter_model.safetensors"), told, RunDirectory(folder).lines()


def test_a_late_change_is_added_to_the_next(recipe, sites, tmp_path, monkeypatch):
    """Against the run in which it is discarded, the mean differs by a third of what was late, and by nothing else."""
    lost: list[bytes] = []
    found, told, lines = ended(recipe(**PLAIN, **QUICK), sites, tmp_path / "late", lost)
    monkeypatch.setattr(Mean, "linear", False)
    without, untold, unlines = ended(recipe(**PLAIN, **QUICK), sites, tmp_path / "discarded", lost)
    change, again = (decode(unpack(blob).leaves) for blob in lost)
    assert change.keys() == again.keys()
    assert all(torch.equal(change[key], again[key]) for key in change)
    names = {name.removeprefix("base_model.model."): name for name in found}
    assert set(keys_of(names).values()) == set(change)
    for short, key in keys_of(names).items():
        gain = found[names[short]] - without[names[short]]
        torch.testing.assert_close(gain, change[key] / 3, atol=1e-6, rtol=1e-4)
    assert "round 3: beta: its upload of round 2 missed its round and is part of this one's" in told
    assert any("beta: its upload of round 2 missed its round and is discarded" in text for text in untold)
    assert [line.get("late") for line in lines if line.get("client") == "beta"] == [None, None, 2]
    assert [line.get("discarded") for line in unlines if line.get("client") == "beta"] == [None, None, 2]


@pytest.mark.parametrize("name", TRAVELLING)
def test_every_method_says_what_becomes_of_it(recipe, sites, tmp_path, name):
    recipe = recipe(method={"name": name}, federation={"rounds": 3}, **QUICK)
    _, told, _ = ended(recipe, sites, tmp_path / "run", [])
    method = create(name, {})
    other_parts = name == "rolora"  # the next round sends the other factor
    kept = method.feedback or (method.rule.linear and not other_parts)
    words = "is part of this one's" if kept else "is discarded"
    assert any("beta: its upload of round 2" in text and words in text for text in told), told


def test_an_evaluation_in_between_loses_nothing(recipe, sites, tmp_path):
    quick = {**QUICK, "run": {"references": False, "evaluate_every": 1}}
    _, told, _ = ended(recipe(**PLAIN, **quick), sites, tmp_path / "run", [])
    assert any("is part of this one's" in text for text in told)


def test_two_in_a_row_are_both_added(recipe, sites, tmp_path, monkeypatch):
    lost: list[bytes] = []
    for linear in (True, False):
        monkeypatch.setattr(Mean, "linear", linear)
        transport = local(sites)
        spoils = [late_in(number, lost) for number in (0, 1)]
        transport.spoil = lambda *case, spoils=spoils: (
            None if any(spoil(*case) is None for spoil in spoils) else case[2]
        )
        run(recipe(**PLAIN, **QUICK), tmp_path / str(linear), transport, quorum=2)
    first, both, _, alone = (decode(unpack(blob).leaves) for blob in lost)
    for key, change in first.items():
        torch.testing.assert_close(both[key], alone[key] + change)
