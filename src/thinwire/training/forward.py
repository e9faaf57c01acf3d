"""One forward pass that computes logits only where the loss is taken."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from thinwire.training.batches import Batch


def logits_at(network: Any, batch: Batch) -> Tensor:
    """Float32 logits (N, V) at `batch.positions`, over the vocabulary or over the classes.

    Where the model has output embeddings, hidden states are selected before they reach them: the head runs on N rows
    instead of B * T, and whatever a model does to its logits (scaling, soft caps) still happens. Right padding reaches
    no earlier token of a causal model, so such a model is called without a mask, which spares building one.
    """
    if not batch.writes:
        return _class_logits(network, batch)
    head = network.get_output_embeddings()
    inputs = {"input_ids": batch.tokens, "use_cache": False}
    if head is None:
        logits = network(**inputs, attention_mask=batch.mask).logits
        return logits.flatten(0, 1)[batch.positions].float()
    with _selected(head, batch.positions):
        logits = network(**inputs).logits
    if logits.shape[:2] != (1, len(batch.positions)):
        raise RuntimeError(f"{type(network).__name__} reshapes what its head returns: {tuple(logits.shape)}")
    return logits.squeeze(0).float()


def _class_logits(network: Any, batch: Batch) -> Tensor:
    """A causal classifier takes the last token that is no padding, so padding must be what it takes for padding."""
    if batch.pixels is not None:
        return network(pixel_values=_scaled(batch.pixels, network.config)).logits.float()
    padding = network.config.get_text_config().pad_token_id or 0
    tokens = batch.tokens.masked_fill(batch.mask == 0, padding)
    logits = network(input_ids=tokens, attention_mask=batch.mask).logits
    return logits.reshape(-1, logits.shape[-1])[batch.positions].float()


def _scaled(pixels: Tensor, config: Any) -> Tensor:
    """Float32 pixels as the model wants them: `(x / 255 - mean) / std` of each channel."""
    mean, std = torch.tensor([config.image_mean, config.image_std], device=pixels.device)[:, :, None, None]
    return (pixels / 255 - mean) / std


class _selected:
    """While open, `head` sees the rows (1, N, H) at `positions` instead of hidden states (B, T, H)."""

    def __init__(self, head: nn.Module, positions: Tensor) -> None:
        self._head, self._positions = head, positions

    def __enter__(self) -> None:
        def select(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (inputs[0].flatten(0, 1)[self._positions][None], *inputs[1:])

        self._handle = self._head.register_forward_pre_hook(select, prepend=True)

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def losses_at(network: Any, batch: Batch) -> Tensor:
    """Negative log likelihood in nats of each target, (N,)."""
    return nn.functional.cross_entropy(logits_at(network, batch), batch.targets, reduction="none")


def autocast(device: torch.device, wanted: bool) -> torch.autocast:
    """bfloat16 autocast if it is wanted and `device` multiplies in bfloat16 by itself."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and has_bfloat16(device))


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 by itself."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
