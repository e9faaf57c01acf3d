"""LoRA through PEFT: the only file that knows PEFT's names. Outside it there are `Adapters`, modules and extras.

A module is named by its path in the base model, an extra by its parameter's path. Factors of convolutions are
matrices outside: A (r, in, k, k) is (r, in*k*k), B (O, r, 1, 1) is (O, r).
"""

from __future__ import annotations

import copy
import math
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from thinwire.adapters import EXTRA, Adapters, Key
from thinwire.lowrank import LowRank
from thinwire.models import merging
from thinwire.models.base import Base
from thinwire.models.config import LoraConfig
from thinwire.models.coverage import covered
from thinwire.models.targets import adapted, extras, is_conv1d, ranks
from thinwire.peft_config import CONFIG, rank_of, read_config, scale_of
from thinwire.peft_names import PREFIX, as_target, portable, unconverted
from thinwire.randomness import derive, uniform
from thinwire.settings import ConfigError

ADAPTER = "default"
VARIANCE = "running_var"
STATISTICS = ("running_mean", VARIANCE)
NOTHING = "dummy-target-modules"
"""What PEFT calls an adapter without LoRA layers: extras alone are trained."""

WEIGHTS = "adapter_model.safetensors"


def attach(base: Base, lora: LoraConfig) -> Any:
    """Put LoRA layers into `base.model` (in place) and return PEFT's model; trainables are float32 on any base.

    Raises: ConfigError for a target or an extra that matches nothing, a module that PEFT cannot adapt or would not
    load, a rank above a module's limit, or a 2nd adapter.
    """
    import peft

    if next(_modules(base.model), None) is not None:
        raise ConfigError(f"lora: model {base.name!r} has an adapter already; load it anew")
    lora = replace(lora, extras=(*lora.extras, *base.extras))
    targets = adapted(base.model, lora)
    own = ranks(targets, lora)
    power = 0.5 if lora.rslora else 1.0
    longest_first = sorted(own, key=lambda name: (-len(name), name))
    generates = hasattr(base.model, "prepare_inputs_for_generation")
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        rank_pattern={name: own[name] for name in longest_first},
        alpha_pattern={name: lora.alpha * (own[name] / lora.rank) ** power for name in longest_first},
        use_rslora=lora.rslora,
        lora_dropout=lora.dropout,
        target_modules=targets or NOTHING,
        modules_to_save=extras(base.model, lora) or None,
        fan_in_fan_out=any(is_conv1d(base.model.get_submodule(name)) for name in targets),
        task_type="CAUSAL_LM" if generates else None,
    )
    exported = portable(base.model, config, targets)
    with unconverted(), warnings.catch_warnings():
        for message in ("is_gradient_checkpointing", "tie_word_embeddings=True", "fan_in_fan_out is set"):
            warnings.filterwarnings("ignore", message=f".*{message}")
        try:
            model = peft.get_peft_model(base.model, config)
        except (ValueError, NotImplementedError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"lora.targets = {list(lora.targets)!r}: PEFT refuses one of them: {reason}") from error
    other = sorted({name for name, _ in _modules(network(model))} ^ set(targets))
    if other:
        raise ConfigError(f"lora.targets = {list(lora.targets)!r}: PEFT adapts otherwise: {', '.join(other)}")
    if exported is not config:
        model.peft_config[ADAPTER] = exported
    for _, wrapper in _extras(network(model)):
        _widen(wrapper.modules_to_save[ADAPTER])
    return model


def network(model: Any) -> Any:
    """The base model with its adapter in place, to be called without PEFT's wrapper around it."""
    return model.get_base_model()


def coverage(model: Any) -> str:
    """What is adapted, trained in full and frozen, in one line."""
    modules, whole = ([name for name, _ in found(network(model))] for found in (_modules, _extras))
    return covered(network(model), modules, whole)


@contextmanager
def disabled(model: Any) -> Iterator[None]:
    """The base model alone, without its adapter, with its own extras and with nothing merged."""
    _merge(model, {})
    with model.disable_adapter():
        yield


def parameters(model: Any) -> dict[Key, nn.Parameter]:
    """The live trainable parameters by key, in `Adapters`' canonical order."""
    found: dict[Key, nn.Parameter] = {}
    for module, layer in sorted(_modules(network(model))):
        found[module, "a"] = layer.lora_A[ADAPTER].weight
        found[module, "b"] = layer.lora_B[ADAPTER].weight
    for path, wrapper in sorted(_extras(network(model))):
        for name, parameter in wrapper.modules_to_save[ADAPTER].named_parameters():
            found[f"{path}.{name}", EXTRA] = parameter
    return found


def tensors(model: Any) -> dict[Key, Tensor]:
    """The parameters, and the running statistics of batch normalisation among the extras: they travel as extras do."""
    found: dict[Key, Tensor] = dict(parameters(model))
    for path, wrapper in sorted(_extras(network(model))):
        for name, buffer in wrapper.modules_to_save[ADAPTER].named_buffers():
            if name.endswith(STATISTICS):
                found[f"{path}.{name}", EXTRA] = buffer
    return found


def read(model: Any) -> Adapters:
    """A copy of the adapter, without what is merged into the base: float32, on the CPU, convolutions as matrices."""
    live = {key: tensor.detach() for key, tensor in tensors(model).items()}
    return _adapters(model, {key: _flat(key, value).to("cpu", torch.float32, copy=True) for key, value in live.items()})


@torch.no_grad()
def write(model: Any, adapters: Adapters) -> None:
    """Set the model's adapter, in place: modules of any rank and scale, and what is merged into the base.

    Raises: KeyError if a tensor is missing, RuntimeError if a shape differs in more than the rank.
    """
    for key, tensor in tensors(model).items():
        shape = _resized(key, tuple(tensor.shape), adapters[key])
        if tensor.shape != shape:
            tensor.data, tensor.grad = tensor.new_empty(shape), None
        _flat(key, tensor).copy_(adapters[key].clamp(min=0) if key[0].endswith(VARIANCE) else adapters[key])
    for name, layer in _modules(network(model)):
        layer.scaling[ADAPTER] = adapters.modules[name].scale
    _merge(model, adapters.merged)


def start(model: Any, seed: int) -> Adapters:
    """Round 0's adapter, the same on every platform: A uniform in +-1/sqrt(fan_in), B zero, extras the base's."""
    found: dict[Key, Tensor] = {}
    for key, tensor in tensors(model).items():
        flat = _flat(key, tensor.detach())
        if key[1] == "a":
            bound = flat.shape[1] ** -0.5
            found[key] = (uniform(derive(seed, "start", key[0]), *flat.shape) * 2 - 1) * bound
        elif key[1] == "b":
            found[key] = torch.zeros(flat.shape)
        else:
            found[key] = _original(model, key[0]).detach().to("cpu", torch.float32, copy=True)
    return _adapters(model, found)


class ExportedAdapter(NamedTuple):
    """An exported adapter's largest rank, and its error where that was limited."""

    rank: int
    relative_error: float


def export(model: Any, adapters: Adapters, folder: Path, rank: int | None = None) -> ExportedAdapter:
    """Write `adapters` for `PeftModel.from_pretrained(base, folder)`; replaces `folder` as a whole, at the end.

    What earlier rounds merged is part of it: one pair a module, exact unless `rank` bounds it.
    """
    from safetensors.torch import save_file

    fresh, old = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    modules, error = merging.one_adapter(adapters, rank)
    whole = Adapters(modules, adapters.extras)
    saved = {
        _peft_name(key): _shaped(key, whole[key], tensor).to("cpu", torch.float32).clone()
        for key, tensor in tensors(model).items()
    }
    save_file(saved, fresh / WEIGHTS, metadata={"format": "pt"})
    config = _with_ranks(model.peft_config[ADAPTER], modules)
    config.inference_mode = True
    if config.target_modules != NOTHING:
        config.target_modules = sorted(config.target_modules)
    config.save_pretrained(fresh)
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)
    return ExportedAdapter(max((module.rank for module in modules.values()), default=0), error)


def _with_ranks(config: Any, modules: Mapping[str, LowRank]) -> Any:
    """A copy of PEFT's configuration that gives every module its rank and scale; as it is if all have the recipe's."""
    config = copy.copy(config)
    scale = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
    if all((module.rank, module.scale) == (config.r, scale) for module in modules.values()):
        return config
    longest_first = sorted(modules, key=lambda name: (-len(name), name))  # PEFT takes the first name that ends like it
    config.r, config.use_rslora = max(module.rank for module in modules.values()), False
    config.rank_pattern = {as_target(config, name): modules[name].rank for name in longest_first}
    config.alpha_pattern = {as_target(config, name): modules[name].scale * modules[name].rank for name in longest_first}
    return config


def load_adapter(model: Any, folder: Path | str) -> Adapters:
    """Read a PEFT LoRA adapter for this model's modules; with another scale than theirs, B makes up for it.

    So the products are those that PEFT computes with the adapter, whatever its alpha, patterns or rsLoRA.
    Raises: ConfigError that says which setting or module differs.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    where, folder = f"model.adapter = {str(folder)!r}", Path(folder).expanduser()
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ConfigError(f"{where}: it has no {name}; allowed is a folder with a PEFT LoRA adapter in safetensors")
    theirs = read_config(folder, where)
    try:
        held = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ConfigError(f"{where}: its {WEIGHTS} is damaged: {error}") from error
    live = tensors(model)
    names = {_peft_name(key): key for key in live}
    for name in sorted(names.keys() ^ held.keys()):
        words = "lacks" if name in names else "has, and lora.targets or lora.extras do not,"
        raise ConfigError(f"{where}: it {words} {name.removeprefix(PREFIX)}; adapt the same modules")
    for name, key in names.items():
        shape, wanted = tuple(held[name].shape), tuple(live[key].shape)
        if key[1] == "a" and (says := rank_of(theirs, key[0])) != shape[0]:
            raise ConfigError(f"{where}: its rank at {key[0]} is {shape[0]}, but {CONFIG} says {says}")
        if key[1] == "a" and shape[0] != wanted[0]:
            words = f"its rank at {key[0]} is {shape[0]}, but lora.rank or lora.ranks is {wanted[0]} there"
            raise ConfigError(f"{where}: {words}; allowed is the same rank")
        if shape != wanted:
            raise ConfigError(f"{where}: its {key[0]} ({key[1]}) is {shape}, the model's is {wanted}")
        if not held[name].isfinite().all():
            raise ConfigError(f"{where}: its {name.removeprefix(PREFIX)} is not finite")
    found = _adapters(model, {key: _flat(key, held[name]).float().clone() for name, key in names.items()})
    modules = {name: _rescaled(pair, scale_of(theirs, name)) for name, pair in found.modules.items()}
    return replace(found, modules=modules)


def _rescaled(pair: LowRank, scale: float) -> LowRank:
    """The pair with the product that it has at another scale."""
    return pair if scale == pair.scale else replace(pair, b=pair.b * (scale / pair.scale))


def _merge(model: Any, merged: Mapping[str, LowRank]) -> None:
    merging.put({name: layer.get_base_layer() for name, layer in _modules(network(model))}, merged)


def keys_of(names: Iterable[str]) -> dict[str, Key]:
    """The keys of a state dict's tensors by their names, PEFT's or the model's; what is not a factor is an extra."""
    pattern = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")
    found = {name: pattern.fullmatch(name) for name in names}
    return {name: (match[1], match[2].lower()) if match else (name, EXTRA) for name, match in found.items()}


def _adapters(model: Any, tensors: dict[Key, Tensor]) -> Adapters:
    modules = {
        module: LowRank(tensors[module, "b"], tensors[module, "a"], float(layer.scaling[ADAPTER]))
        for module, layer in sorted(_modules(network(model)))
    }
    return Adapters(modules, {name: tensor for (name, part), tensor in tensors.items() if part == EXTRA})


def _modules(network: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in network.named_modules() if isinstance(module, LoraLayer))


def _extras(network: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.utils import ModulesToSaveWrapper

    return ((name, module) for name, module in network.named_modules() if isinstance(module, ModulesToSaveWrapper))


def _original(model: Any, name: str) -> Tensor:
    """The base's own value of an extra."""
    path, wrapper = next((p, w) for p, w in _extras(network(model)) if name.startswith(p + "."))
    return wrapper.original_module.state_dict()[name.removeprefix(path + ".")]


def _widen(module: nn.Module) -> None:
    """Train an extra in float32 inside a base of another dtype: cast what enters it and what leaves it."""
    own = next(module.parameters()).dtype
    if own == torch.float32:
        return
    module.float()
    module.register_forward_pre_hook(lambda _, inputs: tuple(_as(x, torch.float32) for x in inputs))
    module.register_forward_hook(lambda _, inputs, output: _as(output, own))


def _as(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _resized(key: Key, shape: tuple[int, ...], wanted: Tensor) -> tuple[int, ...]:
    """A parameter's shape with the rank of `wanted`. Raises: RuntimeError if that is not all that differs."""
    if key[1] == "a":
        shape = (wanted.shape[0], *shape[1:])
    elif key[1] == "b":
        shape = (shape[0], wanted.shape[1], *shape[2:])
    flat = shape if key[1] == EXTRA else (shape[0], math.prod(shape[1:]))
    if flat != tuple(wanted.shape):
        raise RuntimeError(f"{key}: {tuple(wanted.shape)} does not fit {flat}")
    return shape


def _shaped(key: Key, tensor: Tensor, parameter: Tensor) -> Tensor:
    """A factor of any rank in the shape that PEFT's layer gives it."""
    return tensor.reshape(_resized(key, tuple(parameter.shape), tensor))


def _flat(key: Key, tensor: Tensor) -> Tensor:
    """A factor as a matrix (a view); an extra as it is."""
    return tensor if key[1] == EXTRA else tensor.view(tensor.shape[0], -1)


def _peft_name(key: Key) -> str:
    """A tensor's name in PEFT's file."""
    suffix = {"a": ".lora_A.weight", "b": ".lora_B.weight", EXTRA: ""}[key[1]]
    return f"{PREFIX}{key[0]}{suffix}"
