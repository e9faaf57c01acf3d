"""A base out of a GGUF file, as transformers reads it: dequantised, and refused where its reader leaves out a part."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from typing import Any

UNSCALED = ("none", "default")
BLOCK = re.compile(r"blk\.(\d+)\.")


def dequantised() -> dict[str, Any]:
    """The argument that makes transformers unpack every weight, so that factors train and weights take a sum."""
    from transformers import GgufConfig

    return {"quantization_config": GgufConfig(dequantize=True)}


def forget(model: Any) -> None:
    """Take away the marks of a quantised model, in place: its weights are plain, and it can be saved."""
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if name in vars(model):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def check_whole(path: str, model: Any, new: Collection[str]) -> None:
    """Raises: ValueError if the model does not hold every number of the file, or positions that the file scales.

    `new`: modules that the file does not have; then its head is not the model's. Layers after the last one of the
    model, which only guess tokens in advance, do not count.
    """
    from gguf import GGUFReader

    reader, config = GGUFReader(path), model.config.get_text_config()
    unscaled = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default") == "default"
    for name, field in reader.fields.items():
        if unscaled and name.endswith(".rope.scaling.type") and (kind := field.contents()) not in UNSCALED:
            raise ValueError(f"its positions are scaled ({name} = {kind}), which transformers' reader leaves out")
    file = {tensor.name: int(tensor.n_elements) for tensor in reader.tensors}
    if new or config.tie_word_embeddings:
        file.pop("output.weight", None)
    layers = config.num_hidden_layers
    file = {name: size for name, size in file.items() if not ((at := BLOCK.match(name)) and int(at[1]) >= layers)}
    heads = tuple(f"{name}." for name in new)
    own = [value.numel() for name, value in model.named_parameters() if not name.startswith(heads)]
    if sum(own) != sum(file.values()):
        spare = Counter(file.values()) - Counter(own)
        names = sorted(name for name, size in file.items() if size in spare)
        raise ValueError(
            f"transformers' reader makes a model of {sum(own):,} numbers of a file that holds {sum(file.values()):,}: "
            f"it leaves out such as {', '.join(names[:3]) or 'parts of tensors'}"
        )
