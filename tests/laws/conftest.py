"""Every law runs over every registered method, and over the variants that take another path through the code."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.laws.synthetic import BROADCASTING, CASES, STATING, TRAVELLING, label, made
from thinwire.method import Method


@pytest.fixture(params=CASES, ids=label)
def method(request: pytest.FixtureRequest) -> Method:
    """Every method."""
    return made(*request.param)


@pytest.fixture(params=TRAVELLING, ids=label)
def travelling(request: pytest.FixtureRequest) -> Method:
    """Every method by which something travels."""
    return made(*request.param)


@pytest.fixture(params=BROADCASTING, ids=label)
def broadcasting(request: pytest.FixtureRequest) -> Method:
    """Every method that keeps everyone up to date by changes."""
    return made(*request.param)


@pytest.fixture(params=STATING, ids=label)
def stating(request: pytest.FixtureRequest) -> Method:
    """Every method that sends each client a state of its own."""
    return made(*request.param)


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, bytes]]:
    """Every (payload, bytes) that the engine packs while the test runs."""
    from thinwire.engine import exchange, versions
    from thinwire.wire import pack

    seen: list[tuple[Any, bytes]] = []

    def watched(payload: Any) -> bytes:
        blob = pack(payload)
        seen.append((payload, blob))
        return blob

    monkeypatch.setattr(exchange, "pack", watched)
    monkeypatch.setattr(versions, "pack", watched)
    return seen


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Many threads on tiny matrices wait for each other."""
    torch.set_num_threads(1)
