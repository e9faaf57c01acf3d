"""What differs between two fingerprints, in words."""

from __future__ import annotations

import pytest

from thinwire.identity import accepted_kinds, check_same, differences, records_hash
from thinwire.settings import ConfigError

BEFORE = {"classes": ["a", "b"], "clients": {"north": "1"}, "recipe": {"privacy.level": None}, "thinwire": "0.1"}


def test_classes_in_another_order_are_refused_for_good():
    with pytest.raises(ConfigError, match=r"the classes \(a, b before, b, a now\).*not allowed"):
        check_same(BEFORE, {**BEFORE, "classes": ["b", "a"]}, {"data"}, "run")


def test_a_kind_that_one_side_does_not_know_is_not_compared():
    assert differences(BEFORE, {"base": "x", "classes": ["a", "b"]}) == {}


def test_with_privacy_only_the_version_may_change():
    private = {**BEFORE, "recipe": {"privacy.level": "client"}}
    with pytest.raises(ConfigError, match=r"records of north changed.*not allowed with privacy"):
        check_same(private, {**private, "clients": {"north": "2"}}, {"data"}, "run")
    assert check_same(private, {**private, "thinwire": "0.2"}, {"thinwire"}, "run")


def test_an_unknown_kind_is_named():
    assert accepted_kinds("data, template") == {"data", "template"}
    with pytest.raises(ConfigError, match="--accept-changes base: allowed are data, clients"):
        accepted_kinds("base")


def test_records_are_hashed_with_their_order_and_their_bytes():
    one, two = {"a": 1, "image": b"\x00"}, {"image": b"\x01", "a": 1}
    assert records_hash([one, two]) != records_hash([two, one])
    assert records_hash([one]) == records_hash([dict(reversed(one.items()))]) != records_hash([two])


