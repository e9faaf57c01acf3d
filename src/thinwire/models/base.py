"""Base models: the embedded one, a local folder, or a name on the Hugging Face hub (the only one to need a network)."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import nn

from thinwire.models import gguf
from thinwire.models.config import RESNETS, ModelConfig
from thinwire.models.heads import (
    HEAD_CLASSES,
    Head,
    agree_on_padding,
    draw,
    hold_statistics,
    new_modules,
    preprocessor,
    set_scaling,
)
from thinwire.models.probe import examine
from thinwire.models.resnet import HEAD, resnet
from thinwire.models.source import ALLOWED, BaseSource, check_configuration, locate
from thinwire.settings import ConfigError

T = TypeVar("T")

LONGEST = 600
"""Characters of another library's message that are shown."""

UNLIMITED = 1e9
"""From here on a limit on tokens means none: tokenizers write 1e30 where they know of none."""


@dataclass
class Base:
    """A frozen base model with its tokenizer. `model` gains the adapter's layers once `peft_bridge.attach` has run.

    `extras` are modules that no base brings, a classifier's head: they start from the run's seed, trained in full.
    `positions`: tokens that the model's table of positions has room for; None: it has none.
    """

    model: Any
    tokenizer: Any
    name: str
    device: torch.device
    extras: tuple[str, ...] = ()
    positions: int | None = None
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
        if self.tokenizer is None:
            return None
        stated = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        limits = (stated, self.tokenizer.model_max_length, self.positions)
        known = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < UNLIMITED]
        return min(known, default=None)

    def check(self, rows: Iterable[Sequence[int]]) -> None:
        """Raises: ConfigError for a token in the rows that the model has no embedding for."""
        size = len(self.model.get_input_embeddings().weight) if self.tokenizer is not None else 0
        if self.tokenizer is None or len(self.tokenizer) <= size:
            return
        most = max((max(row, default=0) for row in rows), default=0)
        if most >= size:
            word = self.tokenizer.convert_ids_to_tokens(most)
            raise ConfigError(
                f"model.name = {self.name!r}: its tokenizer writes {word!r} as token {most}, but its embeddings have "
                f"{size} rows; allowed is the tokenizer that it was trained with, or embeddings made as large"
            )

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
    source, writes = locate(config), head is None
    reads = head is None or head.task != "image"
    values = _read(config, lambda: _configuration(source))
    check_configuration(config, values, writes)
    extra = _quantisation(config, where) if config.bits is not None else {}
    tokenizer = load_tokenizer(config) if reads else None
    model, new = _read(config, lambda: _load(config, source, extra, head))
    if head is not None:
        draw(model, new, head.seed)
        hold_statistics(model)
        if reads:
            agree_on_padding(model, tokenizer, f"model.name = {config.name!r}")
        else:
            set_scaling(model.config, _read(config, lambda: preprocessor(source.place, source.local)))
    if config.bits is None:
        model = model.to(where)
    model = model.requires_grad_(False).eval()
    left = None
    if tokenizer is not None and not values.get("is_encoder_decoder"):
        special = tokenizer.all_special_ids
        left = _read(config, lambda: examine(model, special, writes, f"model.name = {config.name!r}"))
    return Base(model, tokenizer, config.name, where, tuple(new), left)


def load_tokenizer(config: ModelConfig) -> Any:
    """The tokenizer of the base that a recipe names, with a padding token. Raises: ConfigError."""
    from transformers import AutoTokenizer

    source = locate(config)
    tokenizer = _read(config, lambda: AutoTokenizer.from_pretrained(source.place, **source.arguments()))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _configuration(source: BaseSource) -> dict[str, Any]:
    from transformers import PreTrainedConfig

    return PreTrainedConfig.get_config_dict(source.place, **source.arguments())[0]


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


def _read(config: ModelConfig, read: Callable[[], T]) -> T:
    """What `read` makes of a base. Raises: ConfigError where it cannot.

    Whatever is raised comes from what is in the base's files, of which nothing is known before.
    """
    from transformers.utils import logging

    local = locate(config).local
    bars = logging.is_progress_bar_enabled()
    if local and bars:
        logging.disable_progress_bar()
    try:
        return read()
    except ConfigError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()).partition(" Model type should be one of")[0] or type(error).__name__
        reason = reason if len(reason) <= LONGEST else f"{reason[:LONGEST]}..."
        raise ConfigError(f"model.name = {config.name!r}: it cannot be loaded: {reason}. {ALLOWED}") from error
    finally:
        if local and bars:
            logging.enable_progress_bar()


def _load(config: ModelConfig, source: BaseSource, extra: dict[str, Any], head: Head | None) -> tuple[Any, list[str]]:
    """The model, and the paths of its modules that are new."""
    import transformers

    weights = {"use_safetensors": True, "dtype": getattr(torch, config.dtype)}
    weights |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    kind = "AutoModelForCausalLM"
    if head is not None:
        kind = HEAD_CLASSES[head.task]
        names = dict(enumerate(head.classes))
        weights |= {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    if source.gguf is not None:
        extra = extra | gguf.dequantised()
    model, found = getattr(transformers, kind).from_pretrained(
        source.place, **weights, **source.arguments(), **extra
    )
    missing = {*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])}
    if head is None and found["mismatched_keys"]:
        name, stored, wanted = min(found["mismatched_keys"])
        raise ValueError(f"its {name} is {tuple(stored)}, but its configuration makes it {tuple(wanted)}")
    if head is None and missing:
        raise ValueError(f"its weights lack {', '.join(sorted(missing)[:3])}")
    new = [] if head is None else new_modules(model, missing)
    if source.gguf is not None:
        gguf.forget(model)
        gguf.check_whole(source.gguf, model, new)
    return model, new
