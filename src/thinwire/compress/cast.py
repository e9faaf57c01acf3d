"""Cast the values to the dtype in which they travel."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from thinwire.compress import StepContext
from thinwire.payload import Codes, Floats, Leaves


@dataclass(frozen=True)
class Cast:
    """Round every value that is not a code to `dtype`: "float32", "bfloat16" or "float16"."""

    dtype: str

    def __call__(self, leaves: Leaves, context: StepContext) -> Leaves:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return {
            key: leaf if isinstance(leaf.values, Codes) else replace(leaf, values=Floats(leaf.floats().to(dtype)))
            for key, leaf in leaves.items()
        }
