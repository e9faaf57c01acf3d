"""Batches: padding, positions, the endless order, cutting by length; the schedule."""

from __future__ import annotations

import math

import pytest
from transformers import LlamaConfig

from thinwire.data import Example
from thinwire.training.batches import ROOM, collate, room, split_by_length, stream, targets_of
from thinwire.training.schedule import factor


def of_length(size: int) -> Example:
    return Example((3,) * size, (-100,) * (size - 1) + (3,))


def test_a_batch_points_at_what_predicts_each_label():
    batch = collate([Example((5, 6, 7), (-100, 6, 7)), Example((8, 9), (8, 9))])
    assert batch.tokens.tolist() == [[5, 6], [8, 9]]
    assert batch.mask.tolist() == [[1, 1], [1, 1]]
    assert batch.positions.tolist() == [0, 1, 2]
    assert batch.targets.tolist() == [6, 7, 9]
    assert batch.rows.tolist() == [0, 0, 1]


def test_the_first_token_is_no_target():
    assert targets_of(Example((8, 9), (8, 9))) == 1
    assert targets_of(Example((8,), (8,))) == 0


def test_the_order_is_a_permutation_per_epoch_wherever_it_is_entered():
    whole = stream(3, 7, 0, 21)
    assert [sorted(whole[low : low + 7]) for low in (0, 7, 14)] == [list(range(7))] * 3
    assert whole[:7] != whole[7:14]
    assert [stream(3, 7, first, 4) for first in (0, 4, 8, 12, 16)] == [
        whole[low : low + 4] for low in (0, 4, 8, 12, 16)
    ]
    assert stream(4, 7, 0, 21) != whole


@pytest.mark.parametrize("spare", [None, 1, 10, 1000])
def test_cutting_keeps_every_example_within_the_batch_size(spare):
    examples = [of_length(2 + (7 * k) % 31) for k in range(37)]
    parts = split_by_length(examples, 8, spare)
    assert sorted((e for part in parts for e in part), key=str) == sorted(examples, key=str)
    assert max(map(len, parts)) <= 8
    assert (len(parts) == 5) == (spare in (None, 1000))


def test_a_cut_needs_to_spare_enough():
    examples = [of_length(20), of_length(20), of_length(10), of_length(10)]
    assert [len(part) for part in split_by_length(examples, 4, 20)] == [2, 2]
    assert [len(part) for part in split_by_length(examples, 4, 21)] == [4]


def test_a_part_has_few_tokens_or_one_example():
    examples = [of_length(size) for size in (3, 30, 12, 4, 4, 10, 5)]
    parts = [[len(example.tokens) for example in part] for part in split_by_length(examples, 3, None, 24)]
    assert parts == [[30], [12, 10], [5, 4, 4], [3]]


def test_room_is_a_matter_of_device_and_model():
    small, large = (LlamaConfig(num_hidden_layers=layers, hidden_size=64) for layers in (2, 32))
    assert room("cpu", small) == 16 * room("cpu", large) == ROOM["cpu"] // 128
    assert room("cuda", large) is None


def test_schedules():
    assert [factor("constant", position, 10, 0) for position in (0, 9, 20)] == [1, 1, 1]
    assert [factor("linear", position, 10, 0) for position in (0, 5, 10, 15)] == [1, 0.5, 0, 0]
    assert factor("cosine", 5, 10, 0) == pytest.approx(0.5)
    assert factor("cosine", 1, 10, 0) == pytest.approx(0.5 * (1 + math.cos(math.pi / 10)))
    assert [factor("linear", position, 12, 4) for position in range(5)] == [0.25, 0.5, 0.75, 1, 1]
