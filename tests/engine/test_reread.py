"""Uploads that are decoded anew each time they are asked for."""

from __future__ import annotations

import pytest

from thinwire.method import Reread


@pytest.fixture
def read() -> list[int]:
    return []


def items(read: list[int]) -> Reread[str]:
    return Reread(5, lambda index: (read.append(index), "abcde"[index])[1])


@pytest.mark.parametrize(
    "part", [slice(1, 3), slice(None), slice(None, None, -2), slice(-2, None), slice(4, 1), slice(0, 9, 3)]
)
def test_a_slice_holds_the_items_that_a_list_would(read, part):
    some = items(read)[part]
    assert not read, "nothing is read before it is asked for"
    assert list(some) == list("abcde")[part]
    assert len(some) == len("abcde"[part])
    assert list(some[::-1]) == list("abcde")[part][::-1]


def test_an_index_is_one_item(read):
    assert (items(read)[1], items(read)[-1]) == ("b", "e")
    assert read == [1, 4]
    with pytest.raises(IndexError):
        items(read)[5]


def test_changed_items_and_groups_of_a_slice(read):
    some = items(read)[1:4]
    assert list(some.map(str.upper)) == ["B", "C", "D"]
    assert list(some.groups(2)) == [["b", "c"], ["d"]]
