"""The layers hold: who may import whom, what never appears in the source, and how long a module may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import thinwire
from thinwire.methods import METHODS

ROOT = Path(thinwire.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
CORE = {"values", "lowrank", "adapters", "payload", "compress", "parts", "method", "nelder_mead", "server_optimizer"}
BELOW_METHODS = {*CORE, "settings", "randomness", "wire", "engine", "participation", "clock", "privacy"}
HEAVY = {"peft", "transformers", "datasets", "rich", "matplotlib"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Full names of what a module imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms(path: Path) -> set[str]:
    """The rooms of thinwire that a module imports from."""
    found = {full.split(".")[1] for full in imports(path) if full.startswith("thinwire.")}
    return {room for room in found if (ROOT / room).is_dir() or (ROOT / f"{room}.py").is_file()}


def printed() -> list[str]:
    """The rooms in the order that architecture.md prints."""
    page = (ROOT.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = page.split("src/thinwire/\n", 1)[1].split("```", 1)[0]
    return [line.split()[0].removesuffix(".py").rstrip("/") for line in block.splitlines()]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_room_imports_from_those_printed_above_it(path):
    order = printed()
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if not room.startswith("__"):
        assert rooms(path) <= {*order[: order.index(room) + 1]}


def libraries(path: Path) -> set[str]:
    return {full.split(".")[0] for full in imports(path)}


@pytest.mark.parametrize("path", sorted((ROOT / "methods").glob("*.py")), ids=name)
def test_methods_import_only_the_core(path):
    registry = {"settings", "methods", "own_methods", "presets"} if path.name == "__init__.py" else set()
    assert rooms(path) <= CORE | registry
    standard = {"__future__", "collections", "dataclasses", "functools", "math", "typing"}
    assert libraries(path) <= {"thinwire", "torch", *standard}


@pytest.mark.parametrize("room", sorted(BELOW_METHODS))
def test_the_core_knows_no_model_no_training_and_no_run(room):
    paths = [ROOT / f"{room}.py"] if (ROOT / f"{room}.py").is_file() else sorted((ROOT / room).rglob("*.py"))
    assert paths
    for path in paths:
        assert rooms(path) <= BELOW_METHODS, name(path)
        assert not libraries(path) & HEAVY, name(path)


def test_the_engine_and_what_is_below_knows_no_method_by_name():
    for path in MODULES:
        if name(path).startswith("methods/"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                words = {part.value for part in [node.left, *node.comparators] if isinstance(part, ast.Constant)}
                found = words & (set(METHODS))
                assert not found, f"{name(path)}:{node.lineno} compares with a method's name"


def test_only_the_bridge_knows_peft():
    words = ("lora_A", "lora_B", "base_model.model", "ModulesToSave", "LoraLayer", "adapter_model")
    for path in MODULES:
        if path.name in ("peft_bridge.py", "peft_config.py", "peft_names.py"):
            continue
        assert "peft" not in libraries(path), name(path)
        assert [word for word in words if word in path.read_text(encoding="utf-8")] == [], name(path)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_module_is_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_nothing_that_runs_what_it_reads(path):
    assert not libraries(path) & {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "compile", "torch.load", "torch.save", "np.load", "numpy.load"), (
                node.lineno
            )
            assert not any(
                word.arg == "trust_remote_code" and ast.unparse(word.value) == "True" for word in node.keywords
            )
            assert not any(word.arg in ("shell", "allow_pickle") for word in node.keywords)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_nothing_draws_from_a_global_generator(path):
    """Seeds come from thinwire.randomness; dropout's generator is seeded where it is forked, or per example within."""
    drawn = {"torch.rand", "torch.randn", "torch.randint", "torch.randperm", "torch.bernoulli", "torch.normal"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            own = any(word.arg == "generator" for word in node.keywords)
            assert own or called not in drawn, f"{name(path)}:{node.lineno} {called}"
            assert not called.startswith(("np.random.rand", "np.random.seed", "random.seed", "random.random"))
            assert called != "torch.manual_seed" or name(path) in ("training/trainer.py", "training/private.py")
