"""Where a base is: embedded, fetched, a folder, a GGUF file or a name on the hub; what cannot be one is refused."""

from __future__ import annotations

import importlib.resources
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinwire.known_models import KNOWN
from thinwire.models.config import ModelConfig
from thinwire.settings import ConfigError

EMBEDDED = "embedded"
ALLOWED = (
    "Allowed: embedded, a name that `thinwire models` lists, a folder in the transformers format with safetensors, "
    "a GGUF file, or the name of a model on the hub"
)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
QUANTISED = ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit")
"""Values of `quant_method` whose weights can be a base as they are stored."""

SPLIT = re.compile(r".*-\d{5}-of-\d{5}\.gguf", re.IGNORECASE)


@dataclass(frozen=True)
class BaseSource:
    """A folder or a name on the hub, whether it is on this machine, and the GGUF file in it, if that is the base."""

    place: str
    local: bool
    gguf: str | None = None

    def arguments(self) -> dict[str, Any]:
        """What every `from_pretrained` is called with: no network for what is here, and nobody's code ever."""
        safe: dict[str, Any] = {"local_files_only": self.local, "trust_remote_code": False}
        return safe if self.gguf is None else safe | {"gguf_file": self.gguf}


def locate(config: ModelConfig) -> BaseSource:
    """The source of the base that a recipe names. Raises: ConfigError that says what is there instead."""
    if config.name == EMBEDDED:
        folder = Path(str(importlib.resources.files("thinwire.models") / EMBEDDED))
        if not (folder / "config.json").is_file():
            raise ConfigError("model.name = 'embedded': this installation lacks the embedded base; reinstall thinwire")
        return BaseSource(str(folder), True)
    if known := KNOWN.get(config.name):
        if not known.here:
            raise ConfigError(
                f"model.name = {config.name!r}: it is not in {known.folder.parent}; allowed after: "
                f"thinwire models get {config.name}"
            )
        return BaseSource(str(known.folder), True)
    where, path = f"model.name = {config.name!r}", Path(config.name).expanduser()
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ConfigError(f"{where}: it is a file; allowed of files is a model in GGUF (.gguf). {ALLOWED}")
        return _gguf(config, path)
    if path.is_dir():
        return _folder(config, path)
    if path.is_absolute() or config.name.startswith((".", "~")) or config.name.count("/") > 1:
        raise ConfigError(f"{where}: there is no such folder. {ALLOWED}")
    return BaseSource(config.name, False)


def _folder(config: ModelConfig, path: Path) -> BaseSource:
    where = f"model.name = {config.name!r}"
    if (path / "adapter_config.json").is_file():
        base = _base_of(path / "adapter_config.json")
        raise ConfigError(f"{where}: the folder holds an adapter; allowed is model.adapter for it, with its base{base}")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".gguf")
    if not any(path.glob("*.safetensors")) and files:
        if len(files) > 1 and not all(SPLIT.fullmatch(file.name) for file in files):
            names = ", ".join(file.name for file in files)
            raise ConfigError(f"{where}: the folder holds several models; allowed is the path of one of {names}")
        return _gguf(config, files[0])
    if not (path / "config.json").is_file():
        raise ConfigError(f"{where}: the folder has no config.json{_inside(path)}. {ALLOWED}")
    pickles = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if pickles and not any(path.glob("*.safetensors")):
        raise ConfigError(
            f"{where}: its weights are pickled ({pickles[0]}), which can run code and is never read; allowed are "
            "safetensors: in a place where you trust the file, load it with transformers and save_pretrained() it anew"
        )
    return BaseSource(str(path), True)


def _base_of(path: Path) -> str:
    """The base that an adapter names, for a message."""
    try:
        name = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        name = None
    return f" ({name}) as model.name" if name else " as model.name"


def _inside(path: Path) -> str:
    """A folder within that is a model, as sentence-transformers and trainers write them, for a message."""
    found = sorted(child.parent.name for child in path.glob("*/config.json"))
    return f"; {found[0]}/ in it has one" if found else ""


def _gguf(config: ModelConfig, path: Path) -> BaseSource:
    where = f"model.name = {config.name!r}"
    if SPLIT.fullmatch(path.name):
        raise ConfigError(
            f"{where}: {path.name} is one part of several; allowed is one file (llama-gguf-split --merge)"
        )
    if config.bits is not None:
        raise ConfigError(f"model.bits = {config.bits}: a GGUF file is dequantised; allowed with it is nothing")
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError(f"{where}: GGUF needs the package gguf (pip install 'thinwire[gguf]')")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ConfigError(f"{where}: {path.name} is not a GGUF file: it does not begin with the letters GGUF")
    return BaseSource(str(path.parent.absolute()), True, str(path.absolute()))


def check_configuration(config: ModelConfig, values: Mapping[str, Any], writes: bool) -> None:
    """Raises: ConfigError for a base that its configuration rules out; `writes`: it is to write text."""
    where, kind = f"model.name = {config.name!r}", values.get("model_type")
    if not kind:
        raise ConfigError(f"{where}: its config.json names no model_type, so transformers has no such model. {ALLOWED}")
    if kind not in _known_types():
        own = " It comes with code of its own (auto_map), which is never run." if values.get("auto_map") else ""
        raise ConfigError(f"{where}: this version of transformers knows no model_type {kind!r}.{own} {ALLOWED}")
    method = (values.get("quantization_config") or {}).get("quant_method")
    if method is not None and method not in QUANTISED:
        raise ConfigError(f"{where}: its weights are quantised by {method}; allowed are weights in full precision")
    if method is not None and config.bits is not None:
        raise ConfigError(f"model.bits = {config.bits}: its weights are quantised already; allowed with it is nothing")
    if writes and values.get("is_encoder_decoder"):
        raise ConfigError(f"{where}: {kind} is an encoder and a decoder; {CAUSAL}")


CAUSAL = "allowed with data.task = text is a causal language model, one that sees no later token"


def _known_types() -> Any:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING
