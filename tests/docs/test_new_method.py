"""docs/new_method.md: its blocks run as they stand, in order, in an empty folder."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from thinwire.methods import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "new_method.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[types.ModuleType]:
    """A module for the page's code; the methods it registers are forgotten afterwards."""
    known = dict(METHODS)
    module = types.ModuleType("new_method_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    yield module
    METHODS.clear()
    METHODS.update(known)


@pytest.mark.long
def test_the_page_runs_as_written(page: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"{PAGE.name}, block {number + 1}", "exec"), page.__dict__)
    printed = dict(re.findall(r"^(\S+) +loss .* up +(\d+) kB", capsys.readouterr().out, re.MULTILINE))
    fedit, rolora, top_k = (int(printed[name]) for name in ("fedit", "rolora", "rolora-top-k"))
    assert rolora < 0.6 * fedit
    assert top_k < 0.3 * rolora


def test_a_method_of_the_page_is_about_thirty_lines() -> None:
    assert len(BLOCKS) == 4
    assert len(BLOCKS[0].splitlines()) <= 30
