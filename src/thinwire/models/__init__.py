"""Base models: the embedded one, a local folder, or a name on the Hugging Face hub (the only one to need a network)."""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from thinwire.config import RESNETS, ModelConfig
from thinwire.models.heads import KINDS, Head, draw, hold_statistics, new_modules, preprocessor, set_scaling
from thinwire.models.resnet import HEAD, resnet
from thinwire.settings import ConfigError

T = TypeVar("T")

EMBEDDED = "embedded"


@dataclass
class Base:
    """A frozen base model with its tokenizer. `model` gains the adapter's layers once `peft_bridge.attach` has run.

    `extras` are modules that no base brings, a classifier's head: they start from the run's seed, trained in full.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    device: torch.device
    extras: tuple[str, ...] = ()
    _weights: dict[str, nn.Parameter] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        new = tuple(f"{name}." for name in self.extras)
        self._weights = {name: value for name, value in self.model.named_parameters() if not name.startswith(new)}

    @property
    def image_size(self) -> int | None:
        """The side in pixels of the images it takes; None: any, or it takes none."""
        size = getattr(self.model.config, "image_size", None)
        return size if isinstance(size, int) else None

    @property
    def longest(self) -> int | None:
        """Tokens that it has positions for; None: any number, or it reads images."""
        most = getattr(self.model.config, "max_position_embeddings", None)
        return None if self.tokenizer is None or most is None else min(most, self.tokenizer.model_max_length)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the base's parameters by name: name, dtype, shape, bytes. The same before and after `attach`.

        `extras` do not count: they are the run's, not the base's; nor does what is merged into the base at the time.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self._weights.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def load_base(config: ModelConfig, device: str, head: Head | None = None) -> Base:
    """Load the base that a recipe names, frozen, in evaluation mode, on `device` ("cpu", "cuda", "cuda:1").

    With `head` it is a classifier, whose head is new whatever the base had. Weights are read from safetensors only, and
    no code that comes with a model is run. Raises: ConfigError.
    """
    where = torch.device(device)
    if config.name in RESNETS and head is not None:
        network = resnet(config.name, len(head.classes), config.width, head.seed, config.norm)
        hold_statistics(network)
        draw(network, [HEAD], head.seed)
        model = network.to(where, getattr(torch, config.dtype)).requires_grad_(False).eval()
        return Base(model, None, config.name, where, (HEAD,))
    extra = _quantisation(config, where) if config.bits is not None else {}
    tokenizer = None if head is not None and head.task == "image" else load_tokenizer(config)
    model, new = _read(config, lambda source, local: _load(config, source, local, extra, head))
    if head is not None:
        draw(model, new, head.seed)
        hold_statistics(model)
        if tokenizer is None:
            set_scaling(model.config, _read(config, preprocessor))
        elif model.config.get_text_config().pad_token_id is None:
            model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if config.bits is None:
        model = model.to(where)
    return Base(model.requires_grad_(False).eval(), tokenizer, config.name, where, tuple(new))


def load_tokenizer(config: ModelConfig) -> Any:
    """The tokenizer of the base that a recipe names, with a padding token. Raises: ConfigError."""
    from transformers import AutoTokenizer

    tokenizer = _read(config, lambda source, local: AutoTokenizer.from_pretrained(source, **_common(local)))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _locate(name: str) -> tuple[str, bool]:
    """Where a model is, and whether that is on this machine."""
    if name == EMBEDDED:
        folder = Path(str(importlib.resources.files("thinwire.models") / EMBEDDED))
        if not (folder / "config.json").is_file():
            raise ConfigError("model.name = 'embedded': this installation lacks the embedded base; reinstall thinwire")
        return str(folder), True
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigError(f"model.name = {name!r}: the folder has no config.json. {_ALLOWED}")
        return str(path), True
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ConfigError(f"model.name = {name!r}: there is no such folder. {_ALLOWED}")
    return name, False


_ALLOWED = "Allowed: embedded, a folder in the transformers format with safetensors, or the name of a model on the hub"


def _quantisation(config: ModelConfig, device: torch.device) -> dict[str, Any]:
    """Arguments that load a base in 8 or 4 bits. Raises: ConfigError where this machine cannot."""
    value = f"model.bits = {config.bits}"
    if config.bits not in (4, 8):
        raise ConfigError(f"{value}: allowed is 4, 8 or nothing")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"{value}: needs the package bitsandbytes (pip install 'thinwire[quantised]')")
    from transformers import BitsAndBytesConfig

    dtype = getattr(torch, config.dtype)
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    quantised = BitsAndBytesConfig(**(four if config.bits == 4 else {"load_in_8bit": True}))
    return {"quantization_config": quantised, "device_map": {"": str(device)}}


def _read(config: ModelConfig, read: Callable[[str, bool], T]) -> T:
    """What `read` makes of the source and whether that is local. Raises: ConfigError where it cannot."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    source, local = _locate(config.name)
    bars = logging.is_progress_bar_enabled()
    if local and bars:
        logging.disable_progress_bar()
    try:
        return read(source, local)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"model.name = {config.name!r}: it cannot be loaded: {reason}. {_ALLOWED}") from error
    finally:
        if local and bars:
            logging.enable_progress_bar()


def _common(local: bool) -> dict[str, Any]:
    return {"local_files_only": local, "trust_remote_code": False}


def _load(
    config: ModelConfig, source: str, local: bool, extra: dict[str, Any], head: Head | None
) -> tuple[Any, list[str]]:
    """The model, and the paths of its modules that are new."""
    import transformers

    weights = {"use_safetensors": True, "dtype": getattr(torch, config.dtype), "output_loading_info": True}
    kind = "AutoModelForCausalLM"
    if head is not None:
        kind = KINDS[head.task]
        names = dict(enumerate(head.classes))
        weights |= {"id2label": names, "label2id": {name: index for index, name in names.items()}}
        weights |= {"ignore_mismatched_sizes": True}
    model, found = getattr(transformers, kind).from_pretrained(source, **weights, **_common(local), **extra)
    missing = {*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])}
    if head is not None:
        return model, new_modules(model, missing)
    if missing:
        raise ValueError(f"its weights lack {', '.join(sorted(missing)[:3])}")
    return model, []
