"""One forward pass that computes logits only where the loss is taken; many logits are made and used in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thinwire.training.batches import Batch

CHUNK = 1 << 22
"""Logits that are held at a time, where there are more: 16 MiB in float32."""


def losses_at(network: Any, batch: Batch) -> Tensor:
    """Negative log likelihood in nats of each target, (N,)."""
    rows = rows_at(network, batch)
    if rows.size < len(rows.states):
        return _ChunkedLosses.apply(rows.states, rows, batch.targets)
    return nn.functional.cross_entropy(rows.logits(rows.states), batch.targets, reduction="none")


@torch.no_grad()
def outcomes_at(network: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The likeliest class of each target, and the target's negative log likelihood in nats; (N,) each."""
    rows = rows_at(network, batch)
    guesses, nats = [], []
    for states, targets in zip(rows.states.split(rows.size), batch.targets.split(rows.size), strict=True):
        logits = rows.logits(states)
        guesses.append(logits.argmax(dim=1))
        nats.append(nn.functional.cross_entropy(logits, targets, reduction="none"))
    return torch.cat(guesses), torch.cat(nats)


@dataclass(frozen=True)
class Rows:
    """What the model made at each of N positions: `states` (N, H). `logits` makes float32 logits (n, V) of any of them.

    size: rows of which `logits` are to be made at a time.
    """

    states: Tensor
    logits: Callable[[Tensor], Tensor]
    size: int


def rows_at(network: Any, batch: Batch) -> Rows:
    """One pass through the model: hidden states at `batch.positions`, or the logits themselves if they are few.

    Where the model has output embeddings, hidden states are selected before they reach them: the head runs on N rows
    instead of B * T. Right padding reaches no earlier token of a causal model, so such a model is called without a
    mask, which spares building one. The logits themselves also where the head is trained, and where the model calls its
    backbone by no name that transformers knows.
    """
    head = network.get_output_embeddings() if batch.writes else None
    if head is None:
        return _whole(_class_logits(network, batch) if not batch.writes else _all_logits(network, batch))
    inputs = {"input_ids": batch.tokens, "use_cache": False}
    size = max(1, CHUNK // network.config.get_text_config().vocab_size)
    outputs: dict[nn.Module, Any] = {}
    found: list[Tensor] = []

    def select(states: Tensor) -> Tensor:
        found.append(states.flatten(0, 1)[batch.positions])
        return found[0][:1] if outputs else found[0]

    with ExitStack() as hooks:
        if len(batch.positions) > size and not _trained(head):
            for module in {network.base_model, network.get_decoder()} - {network, head, None}:
                handle = module.register_forward_hook(lambda of, _, output: outputs.update({of: output}))
                hooks.enter_context(_hook(handle))
        hooks.enter_context(_fed(head, select))
        logits = network(**inputs).logits
    if outputs:
        return Rows(found[0], lambda states: _again(network, inputs, outputs, head, states), size)
    if logits.shape[:2] != (1, len(batch.positions)):
        raise RuntimeError(f"{type(network).__name__} reshapes what its head returns: {tuple(logits.shape)}")
    return _whole(logits.squeeze(0).float())


def _whole(logits: Tensor) -> Rows:
    return Rows(logits, lambda logits: logits, max(1, len(logits)))


def _trained(head: nn.Module) -> bool:
    return torch.is_grad_enabled() and any(value.requires_grad for value in head.parameters())


def _again(
    network: Any, inputs: dict[str, Any], outputs: dict[nn.Module, Any], head: nn.Module, states: Tensor
) -> Tensor:
    """Logits of hidden states: the model runs again with the outputs that its backbone had.

    So whatever a model does to its logits (scaling, soft caps) still happens.
    """
    with ExitStack() as changes:
        for module, output in outputs.items():
            changes.enter_context(_answered(module, output))
        changes.enter_context(_fed(head, lambda _: states))
        return network(**inputs).logits.squeeze(0).float()


class _ChunkedLosses(torch.autograd.Function):
    """Losses (N,) of hidden states (N, H); the gradient is made beside them, so that no logits are kept."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, rows: Rows, targets: Tensor) -> Tensor:
        losses, gradients = [], []
        for part, target in zip(states.detach().split(rows.size), targets.split(rows.size), strict=True):
            part.requires_grad_()
            with torch.enable_grad():
                found = nn.functional.cross_entropy(rows.logits(part), target, reduction="none")
                gradients += torch.autograd.grad(found.sum(), part)
            losses.append(found.detach())
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, None, None]:
        (gradients,) = ctx.saved_tensors
        return given[:, None].to(gradients.dtype) * gradients, None, None


@contextmanager
def _hook(handle: Any) -> Iterator[None]:
    """A hook until the end."""
    try:
        yield
    finally:
        handle.remove()


def _fed(head: nn.Module, change: Callable[[Tensor], Tensor]) -> Any:
    """While open, `head` sees the rows (1, n, H) that `change` makes of the hidden states (B, T, H)."""
    return _hook(head.register_forward_pre_hook(lambda _, args: (change(args[0])[None], *args[1:]), prepend=True))


@contextmanager
def _answered(module: nn.Module, output: Any) -> Iterator[None]:
    """While open, the module returns `output` and computes nothing."""
    own = vars(module).get("forward")
    module.forward = lambda *_, **__: output
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def _all_logits(network: Any, batch: Batch) -> Tensor:
    """Of a model whose head has no name."""
    logits = network(input_ids=batch.tokens, use_cache=False, attention_mask=batch.mask).logits
    return logits.flatten(0, 1)[batch.positions].float()


def _class_logits(network: Any, batch: Batch) -> Tensor:
    """A causal classifier takes the last token that is not padding, so padding must be what it takes for padding."""
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
