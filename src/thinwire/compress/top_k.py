"""Keep the largest entries of all tensors together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.compress import StepContext
from thinwire.payload import Leaves, sparse


@dataclass(frozen=True)
class TopK:
    """Keep the largest entries of the model, no more than a share `density` but at least one; ties: the first ones.

    Tensors count as one vector in their order. Zeros, which say nothing, never travel. Density 1 keeps leaves as they
    are. Source: FLASC, arXiv:2406.05233.
    """

    density: float

    def __call__(self, leaves: Leaves, context: StepContext) -> Leaves:
        if self.density >= 1:
            return leaves
        values = {key: leaf.dense() for key, leaf in leaves.items()}
        flat = torch.cat([tensor.reshape(-1) for tensor in values.values()]).abs()
        kept = largest(flat, max(1, int(self.density * flat.numel() + 1e-6)))
        masks = kept.split([tensor.numel() for tensor in values.values()])
        return {
            key: sparse(tensor, mask.view(tensor.shape))
            for (key, tensor), mask in zip(values.items(), masks, strict=True)
        }


def largest(magnitudes: Tensor, count: int) -> Tensor:
    """A mask of the `count` largest of the magnitudes (N,) that are not 0; of equal ones the first."""
    limit = magnitudes.kthvalue(magnitudes.numel() - count + 1).values
    above = magnitudes > limit
    ties = (magnitudes == limit).nonzero().squeeze(1)[: count - int(above.sum())]
    above[ties] = True
    return above & (magnitudes != 0)
