"""LoRA tensors by PEFT's names: where they start, a round's pretended training, and bfloat16 for Flower's arrays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

Tensors = dict[str, Tensor]


def initial(shapes: Path) -> Tensors:
    """A uniform as PEFT starts it, B zero; float32. shapes: a JSON file, name -> shape."""
    generator, found = torch.Generator().manual_seed(0), {}
    for name, (rows, columns) in json.loads(shapes.read_text()).items():
        uniform = (torch.rand(rows, columns, generator=generator) * 2 - 1) / columns**0.5
        found[name] = uniform if "lora_A" in name else torch.zeros(rows, columns)
    return found


def trained(tensors: Tensors, node: int, number: int) -> Tensors:
    """The tensors after a random change whose rows and columns have unequal sizes."""
    generator = torch.Generator().manual_seed((node * 1000 + number) % (1 << 62))
    return {name: tensor + change(tensor, generator) for name, tensor in tensors.items()}


def change(tensor: Tensor, generator: torch.Generator) -> Tensor:
    rows = torch.exp(0.5 * torch.randn(tensor.shape[0], 1, generator=generator))
    columns = torch.exp(0.5 * torch.randn(1, tensor.shape[1], generator=generator))
    return torch.randn(tensor.shape, generator=generator).mul_(rows * 1e-3).mul_(columns)


def bits(tensors: Tensors) -> ArrayRecord:
    """bfloat16 as Flower can carry it: each value's 16 bits as uint16."""
    halves = {name: tensor.bfloat16().view(torch.int16).numpy().view(np.uint16) for name, tensor in tensors.items()}
    return ArrayRecord({name: Array(half) for name, half in halves.items()})


def floats(arrays: ArrayRecord) -> Tensors:
    """float32 of such arrays."""
    words = {name: array.numpy().view(np.int16).copy() for name, array in arrays.items()}
    return {name: torch.from_numpy(word).view(torch.bfloat16).float() for name, word in words.items()}
