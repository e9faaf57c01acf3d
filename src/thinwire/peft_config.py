"""What a LoRA adapter's `adapter_config.json` says: rank and scale of each module, and what it asks for beyond LoRA."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thinwire.settings import ConfigError

CONFIG = "adapter_config.json"
PARAMETERS, WEIGHT = "target_parameters", ".weight"
PLAIN_STARTS = (True, False, "gaussian", "eva", "mica", "orthogonal")
"""Values of `init_lora_weights` that leave the base's weights as they are."""

READ = frozenset({"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights"})
MODULES = frozenset(
    {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "fan_in_fan_out"}
)
"""Which modules, and the layout of their weights: the tensors of the file say it."""
NOTES = frozenset(
    {
        "base_model_name_or_path", "revision", "task_type", "inference_mode", "auto_mapping", "peft_version",
        "lora_dropout", "runtime_config", "megatron_core", "qalora_group_size", "ensure_weight_tying",
        "eva_config", "corda_config", "loftq_config", "lora_ga_config",
    }
)  # fmt: skip
"""What changes nothing in the product of the stored factors, or only with a field that is refused."""


def read_config(folder: Path, where: str) -> dict[str, Any]:
    """The configuration of a plain LoRA adapter. `where` begins the messages.

    Raises: ConfigError if it is damaged, or asks for what a product of two factors and a scale does not say.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{where}: its {CONFIG} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{where}: its {CONFIG} is damaged: allowed is an object")
    if config.get("peft_type", "LORA") != "LORA":
        raise ConfigError(f"{where}: its peft_type is {config['peft_type']!r}; allowed is LORA")
    start = config.get("init_lora_weights", True)
    if (start.lower() if isinstance(start, str) else start) not in PLAIN_STARTS:
        raise ConfigError(
            f"{where}: its init_lora_weights is {start!r}, which changes the base's weights too; allowed is an adapter "
            "to the base as it is (PEFT's save_pretrained converts with path_initial_model_for_weight_conversion)"
        )
    if config.get("bias", "none") != "none":
        raise ConfigError(f"{where}: its bias is {config['bias']!r}; allowed is 'none'")
    for name in sorted(config.keys() - READ - MODULES - NOTES - {"bias"}):
        if config[name] and not (name == PARAMETERS and _are_weights(config[name])):
            raise ConfigError(f"{where}: its {name} is {_shown(config[name])}; allowed is plain LoRA, without {name}")
    _check_numbers(config, where)
    return config


def rank_of(config: Mapping[str, Any], module: str) -> int:
    """The rank of a module, named by its path in the base model, as PEFT finds it."""
    return int(_own(config, "rank_pattern", module, config.get("r", 8)))


def scale_of(config: Mapping[str, Any], module: str) -> float:
    """The scale of a module's product, as PEFT finds it."""
    rank, alpha = rank_of(config, module), _own(config, "alpha_pattern", module, config.get("lora_alpha", 8))
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def _own(config: Mapping[str, Any], field: str, module: str, otherwise: Any) -> Any:
    from peft.utils.other import get_pattern_key

    patterns = config.get(field) or {}
    if module + WEIGHT in (config.get(PARAMETERS) or ()):
        module += WEIGHT
    return patterns.get(get_pattern_key(patterns.keys(), module), otherwise)


def _are_weights(names: Any) -> bool:
    """Whether targeted parameters are layers' weights, which LoRA adapts as it does the layers."""
    return isinstance(names, list) and all(isinstance(name, str) and name.endswith(WEIGHT) for name in names)


def _check_numbers(config: Mapping[str, Any], where: str) -> None:
    for field, pattern, default in (("r", "rank_pattern", 8), ("lora_alpha", "alpha_pattern", 8)):
        own = config.get(pattern) or {}
        if not isinstance(own, dict):
            raise ConfigError(f"{where}: its {pattern} is {_shown(own)}; allowed is a table of numbers")
        for name, value in [(field, config.get(field, default)), *own.items()]:
            good = isinstance(value, int) if field == "r" else isinstance(value, int | float)
            if not good or isinstance(value, bool) or value <= 0:
                raise ConfigError(f"{where}: its {field} ({name}) is {_shown(value)}; allowed is a number above 0")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
