"""What `thinwire inspect` says about a payload adds up."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

from thinwire.payload import All, Floats, Leaf, Payload
from thinwire.report import inspect
from thinwire.wire import WireError, pack

from .samples import codes, gaussian, kept, positions


@pytest.fixture(scope="module")
def blob():
    rng = np.random.default_rng(0)
    listed = positions(rng, (40, 50), 0.2, "rows")
    count = kept((40, 50), listed)
    return pack(
        Payload(
            "change",
            2,
            3,
            {
                ("q", "a"): Leaf((40, 50), listed, Floats(gaussian(rng, count).bfloat16())),
                ("q", "b"): Leaf((40, 50), listed, codes(rng, count, 4, (40, 50), "row", True)),
                ("head", "extra"): Leaf((5,), All(), Floats(torch.ones(5))),
            },
        )
    )


def test_parts_add_up(blob):
    description = inspect.describe(blob)
    assert description["bytes"] == len(blob) == sum(description["bytes_by_part"].values())
    assert description["parameters"] == 4005
    for leaf in description["leaves"]:
        assert leaf["bytes"] == sum(leaf["bytes_by_part"].values())
    assert [leaf["values"] for leaf in description["leaves"]] == ["bfloat16", "4-bit codes per row", "float32"]
    assert {"positions", "scales", "codes"} == set(description["leaves"][1]["bytes_by_part"])
    json.dumps(description)


def test_table_names_every_leaf(blob, tmp_path, capsys):
    (tmp_path / "x.tw").write_bytes(blob)
    console = Console(width=200, record=True, file=io.StringIO())
    assert inspect.main(tmp_path / "x.tw", console=console) == 0
    text = console.export_text()
    for words in ("q (a)", "40 x 50", "4-bit codes per row", "scales", "all, with directory"):
        assert words in text
    inspect.main(tmp_path / "x.tw", as_json=True)
    assert json.loads(capsys.readouterr().out) == inspect.describe(blob)


def test_other_files_are_refused():
    with pytest.raises(WireError):
        inspect.describe(b"not a payload")
