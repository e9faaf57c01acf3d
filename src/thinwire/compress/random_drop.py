"""Drop entries at random and rescale the rest: the mask is drawn by a seed, so positions cost nothing."""

from __future__ import annotations

from dataclasses import dataclass

from thinwire.compress import StepContext
from thinwire.payload import Floats, Leaf, Leaves, Seeded


@dataclass(frozen=True)
class RandomDrop:
    """Drop each entry with probability `rate` and divide what stays by `1 - rate`, which keeps the mean.

    Source: DARE, arXiv:2311.03099; FedSRD's download.
    """

    rate: float
    rescale: bool = True

    def __call__(self, leaves: Leaves, context: StepContext) -> Leaves:
        if self.rate == 0:
            return leaves
        factor = 1 / (1 - self.rate) if self.rescale else 1.0

        def drop(key: tuple[str, str], leaf: Leaf) -> Leaf:
            mask = Seeded(context.derive(*key), 1 - self.rate)
            empty = Leaf(leaf.shape, mask, leaf.values)
            return Leaf(leaf.shape, mask, Floats(leaf.dense().reshape(-1)[empty.indices()] * factor))

        return {key: drop(key, leaf) for key, leaf in leaves.items()}
