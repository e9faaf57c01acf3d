"""What travels, in words: as the method's settings have it."""

from __future__ import annotations

import pytest

from tests.laws.synthetic import made
from thinwire.report.travel import travels

SPARSE, WARM = "sparse dA and dB, by importance", {"warm_start": True}


@pytest.mark.parametrize(
    ("name", "settings", "up", "down"),
    [
        ("fedit", {}, "dense dA and dB, bfloat16", "dense dA and dB, bfloat16"),
        ("fedit", {"bits_up": 4}, "dense dA and dB, 4 bits", "dense dA and dB, bfloat16"),
        ("rolora", {"turn": 3}, "dense dB or dA, in turn, bfloat16", "dense dB or dA, in turn, bfloat16"),
        ("fedsrd", {}, f"{SPARSE}, bfloat16", "sparse dB or dA, in turn, by importance, bfloat16"),
        ("fedsrd-official", {}, f"{SPARSE}, bfloat16", "random dA or dB, in turn, by seed, bfloat16"),
        ("flasc", {"freeze_a": True}, "top-k dB of own rank, bfloat16", "top-k B of own rank, bfloat16"),
        ("flora", {}, "dense A and B of own rank, bfloat16", "dense merged pair, bfloat16"),
        ("flora", WARM, "dense dA and dB of own rank, bfloat16", "dense dA and dB and merged pair, bfloat16"),
        ("fedsa-lora", {}, "dense dA, bfloat16", "dense dA, bfloat16"),
        ("flocora", {}, "dense dA and dB, 8 bits", "dense dA and dB, 8 bits"),
        ("flocora", {"bits_down": 0}, "dense dA and dB, 8 bits", "dense dA and dB, float32"),
        ("local", {}, "nothing", "nothing"),
    ],
)
def test_what_travels(name, settings, up, down):
    assert travels(made(name, settings)) == (up, down)
