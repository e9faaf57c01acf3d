"""What a leaf needs at the entropy: the measure that packed sizes are held against."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from thinwire.payload import Codes, Floats, Leaf, Listed, Seeded
from thinwire.wire.entropy import bits, share_bits
from thinwire.wire.values import FLOAT_LAYOUTS


def bound_bits(leaf: Leaf) -> float:
    """Empirical entropy in bits: positions at one density, signs, exponents and codes order-0, mantissas in full.

    What a model needs to be sent belongs to it: scales as floats, 32 bits a zero point; 128 bits for a seed and a
    density. Tables of symbols do not.
    """
    if isinstance(leaf.values, Floats):
        return position_bits(leaf) + float_bits(leaf.values.tensor)
    codes = leaf.values
    zeros = 0 if codes.zero is None else 32 * len(codes.zero)
    return position_bits(leaf) + float_bits(codes.scale) + zeros + bits(np.bincount(codes.codes.numpy()))


def position_bits(leaf: Leaf) -> float:
    """Bits of the kept positions at one density for all of the leaf: N H(p)."""
    if isinstance(leaf.positions, Seeded):
        return 128.0
    return share_bits(leaf.kept, leaf.size) if isinstance(leaf.positions, Listed) else 0.0


def float_bits(tensor: Tensor) -> float:
    """Signs and exponents order-0, mantissas at full width."""
    exponent, mantissa = FLOAT_LAYOUTS[tensor.dtype]
    integers = tensor.detach().view(torch.int16 if tensor.itemsize == 2 else torch.int32).numpy()
    words = integers.view(f"<u{tensor.itemsize}")
    signs = np.bincount(words >> (exponent + mantissa), minlength=2)
    exponents = np.bincount(words >> mantissa & ((1 << exponent) - 1))
    return bits(signs) + bits(exponents) + mantissa * len(words)


def symbols_in_use(leaf: Leaf) -> int:
    """Distinct exponents or codes of a leaf."""
    if isinstance(leaf.values, Codes):
        return len(torch.unique(leaf.values.codes))
    exponent, mantissa = FLOAT_LAYOUTS[leaf.values.tensor.dtype]
    integers = leaf.values.tensor.view(torch.int16 if leaf.values.tensor.itemsize == 2 else torch.int32)
    return len(torch.unique(integers >> mantissa & ((1 << exponent) - 1)))
