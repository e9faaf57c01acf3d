"""What only a pass through a model tells for sure: whether it sees later tokens, and how many positions it has."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from thinwire.models.source import CAUSAL
from thinwire.settings import ConfigError

LENGTH = 8
"""Tokens of each of the two sequences; they share the first half."""

NOISE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 3e-2}
"""The largest change of earlier logits, relative to that of later ones, that is rounding: where tokens are sorted to
experts, a product's shape depends on later tokens."""


@torch.no_grad()
def examine(model: Any, special: Collection[int], writes: bool, where: str) -> int | None:
    """The positions that the model's table of them has left for tokens; None: it has no table.

    One pass over two short sequences that begin alike. `special`: tokens not to try. `writes`: the model is to write
    text. `where` begins the messages. Raises: ConfigError if it then sees later tokens, or its logits are not numbers.
    """
    tokens = _sequences(model, special)
    own = {"use_cache": False} if writes else {"attention_mask": torch.ones_like(tokens)}
    with _as_stored(model), _Lookups() as lookups:
        logits = model(input_ids=tokens, **own).logits.float()
    if logits.isnan().any():
        raise ConfigError(f"{where}: its logits are not numbers (NaN); allowed are weights that fit model.dtype")
    if writes:
        moved = (logits[0] - logits[1]).abs().nan_to_num().amax(dim=-1)
        earlier, later = moved[: LENGTH // 2].max(), moved[LENGTH // 2 :].max()
        if earlier > NOISE[model.dtype] * later:
            raise ConfigError(f"{where}: it sees later tokens, so it would read the answer that it writes; {CAUSAL}")
    return lookups.left


@contextmanager
def _as_stored(model: Any) -> Iterator[None]:
    """Keep bitsandbytes from laying 4-bit weights out anew, for good, as it does on a CPU when it evaluates them."""
    packed = [module for module in model.modules() if type(module).__name__ == "Linear4bit"]
    for module in packed:
        module.training = True
    try:
        yield
    finally:
        for module in packed:
            module.training = False


def _sequences(model: Any, special: Collection[int]) -> Tensor:
    """(2, LENGTH): ordinary tokens; the second half differs everywhere."""
    embeddings = model.get_input_embeddings().weight
    usable = [token for token in range(len(embeddings)) if token not in special] or [0]
    chosen = [usable[(3 + 7919 * place) % len(usable)] for place in range(LENGTH + LENGTH // 2)]
    rows = [chosen[:LENGTH], chosen[: LENGTH // 2] + chosen[LENGTH:]]
    return torch.tensor(rows, device=embeddings.device)


class _Lookups(TorchDispatchMode):
    """Watches every look-up in a table; one by consecutive numbers in each row is of positions."""

    left: int | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.embedding.default and args[1].shape[-1] == LENGTH:
            rows = args[1].reshape(-1, LENGTH)
            if bool((rows == rows[0, :1] + torch.arange(LENGTH, device=rows.device)).all()):
                left = len(args[0]) - int(rows[0, 0])
                self.left = left if self.left is None else min(self.left, left)
        return func(*args, **(kwargs or {}))
