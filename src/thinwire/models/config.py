"""The sections [model] and [lora] of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from thinwire.settings import setting
from thinwire.values import DTYPES

RESNETS = ("resnet8", "resnet18")


@dataclass(frozen=True)
class ModelConfig:
    """The base model."""

    name: str = setting(
        "embedded",
        "`embedded`, `resnet8`, `resnet18`, a name that `thinwire models` lists, a folder, a GGUF file, or the name of "
        "a model on the hub",
    )
    width: int = setting(64, "channels of a resnet's first stage", low=1)
    norm: str = setting("group", "a resnet's normalisation", choices=("group", "batch"))
    dtype: str = setting("float32", "dtype of the frozen base; factors are float32 always", choices=DTYPES)
    bits: int | None = setting(None, "load the base in 8 or 4 bits by bitsandbytes (CUDA only)", low=4, high=8)
    adapter: str | None = setting(None, "folder of a PEFT LoRA adapter to start from")


@dataclass(frozen=True)
class LoraConfig:
    """The adapter's shape."""

    rank: int = setting(16, "inner rank r of every module", low=1)
    alpha: float = setting(32.0, "numerator of the scale alpha / r", above=0)
    ranks: dict[str, int] = setting(  # noqa: RUF009
        doc="module name -> rank of its own, of the same scale as the others", factory=dict, low=1
    )
    rslora: bool = setting(False, "scale alpha / sqrt(r) instead of alpha / r")
    targets: tuple[str, ...] = setting(
        ("all-linear",), "module names to adapt; all-linear (all but the head), all-conv; empty: none"
    )
    dropout: float = setting(0.0, "dropout on the adapter's input", low=0, below=1)
    extras: tuple[str, ...] = setting((), "modules trained in full (PEFT's modules_to_save); all-norm, all")
