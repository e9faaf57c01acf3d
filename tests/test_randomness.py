"""Random numbers: the vectors of docs/wire.md, and any part of a mask without the rest."""

from __future__ import annotations

import pytest
import torch

from thinwire.randomness import derive, permutation, seeded_count, seeded_mask, uniform, words


def test_vectors():
    assert words(0, 8).tolist() == [
        149215387,
        49592932,
        2628306354,
        1037445899,
        1569730169,
        478570405,
        802534620,
        2424142341,
    ]
    assert words(2**64 - 1, 4).tolist() == [2380159995, 1009066437, 2920482519, 3080826205]
    assert words(7, 4, 1000).tolist() == [0xF000EDBD, 0x6C45561C, 0x7F180085, 0x3C0FB7D0]
    assert seeded_mask(7, 100, 0.1).tolist() == [9, 17, 22, 32, 33, 40, 59, 66, 69, 70, 75, 78, 90, 97, 98]
    assert uniform(7, 3).tolist() == [0.16372650861740112, 0.8720734119415283, 0.9722633361816406]
    assert derive(7, "up", "q", 3) == 1738808866232603235


@pytest.mark.parametrize("density", [0.0, 0.003, 0.5, 1.0])
@pytest.mark.parametrize("start", [0, 1, 8, 262_143, 262_145])
def test_part_of_a_mask(density, start):
    whole = seeded_mask(5, 600_000, density)
    part = seeded_mask(5, 100_000, density, start)
    assert torch.equal(part, whole[(whole >= start) & (whole < start + 100_000)])
    assert seeded_count(5, 600_000, density) == len(whole)
    assert part.dtype == torch.int64


def test_density_is_met():
    assert abs(seeded_count(1, 1_000_000, 0.04) / 1_000_000 - 0.04) < 0.001


def test_empty_mask():
    assert seeded_mask(1, 0, 0.5).tolist() == []
    assert seeded_count(1, 0, 0.5) == 0


def test_names_are_told_apart():
    seeds = {derive(1, "a"), derive(1, "b"), derive(2, "a"), derive(1, "a", "b"), derive(1, "ab"), derive(1, 1)}
    assert len(seeds) == 6


def test_permutation():
    assert sorted(permutation(3, 100)) == list(range(100))
    assert permutation(3, 100) == permutation(3, 100) != permutation(4, 100)
