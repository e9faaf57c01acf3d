"""The section [train] of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from thinwire.settings import setting


@dataclass(frozen=True)
class TrainConfig:
    """Local training."""

    steps: int = setting(10, "optimizer steps of a client in a round", low=1)
    epochs: float | None = setting(None, "passes over the client's examples instead of steps", above=0)
    optimizer: str = setting("adamw", "local optimizer", choices=("adamw", "sgd"))
    learning_rate: float = setting(1e-3, "peak learning rate", above=0)
    schedule: str = setting("constant", "learning rate over all rounds", choices=("constant", "cosine", "linear"))
    horizon: int | None = setting(None, "rounds over which the schedule runs; none: the recipe's rounds", low=1)
    warmup: int = setting(0, "steps of linear warm-up", low=0)
    batch: int = setting(8, "examples of a forward pass", low=1)
    accumulation: int = setting(1, "forward passes of an optimizer step", low=1)
    weight_decay: float = setting(0.0, "AdamW's or SGD's weight decay", low=0)
    momentum: float = setting(0.0, "SGD's momentum", low=0, below=1)
    clip: float | None = setting(1.0, "largest gradient norm; none: no clipping", above=0)
    autocast: bool = setting(False, "bfloat16 autocast where the device has it")
    checkpointing: bool = setting(False, "gradient checkpointing")
    augment: tuple[str, ...] = setting((), "changes of images in training", choices=("flip", "crop"))
    proximal: float = setting(0.0, "FedProx: pull towards the round's start, mu / 2 |w - start|^2", low=0)
    keep_optimizer: bool = setting(False, "keep a client's optimizer state between rounds")
