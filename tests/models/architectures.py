"""Tiny configurations of the architectures that the installed transformers knows, and why some cannot be tried."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

from tests.tiny_models import EOS, VOCABULARY

WIDTH, INNER, HEADS, LAYERS, LENGTH, EXPERTS = 32, 48, 2, 2, 64, 4
SIZES: tuple[tuple[int, tuple[str, ...]], ...] = (
    (VOCABULARY, ("vocab_size", "lm_vocab_size", "vocab_size_per_layer_input")),
    (WIDTH, ("hidden_size", "n_embd", "d_model", "embed_dim", "embedding_size", "emb_dim")),
    (INNER, (
        "intermediate_size", "n_inner", "ffn_dim", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size",
        "dff", "dim_ff",
    )),
    (24, ("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size")),
    (LAYERS, (
        "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers",
        "num_encoder_layers", "num_decoder_layers",
    )),
    (HEADS, (
        "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads",
        "num_key_value_heads", "num_kv_heads", "num_experts_per_tok", "num_experts_per_token", "moe_k", "top_k",
        "n_mamba_heads", "mamba_expand", "linear_num_value_heads", "linear_num_key_heads",
    )),
    (LENGTH, ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")),
    (EXPERTS, (
        "num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", "mamba_n_heads", "mamba_num_heads",
    )),
    (16, ("head_dim", "q_lora_rank", "kv_lora_rank", "v_head_dim", "qk_head_dim", "mamba_d_head", "mamba_head_dim")),
    (8, (
        "qk_rope_head_dim", "qk_nope_head_dim", "state_size", "ssm_state_size", "mamba_d_state", "linear_key_head_dim",
        "linear_value_head_dim", "hidden_size_per_layer_input",
    )),
    (1, (
        "n_shared_experts", "n_group", "topk_group", "n_groups", "first_k_dense_replace", "decoder_sparse_step",
        "mamba_n_groups", "bos_token_id", "eos_token_id", "decoder_start_token_id", "sep_token_id",
    )),
    (0, ("pad_token_id",)),
)  # fmt: skip
"""Size and the fields that have it, in whatever architecture has such a field."""

assert EOS == 1

HYBRID = ["mamba", "hybrid", "mamba", "hybrid"]
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
HALF = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
OWN: dict[str, dict[str, Any]] = {
    "codegen": {"n_head": 4, "rotary_dim": 4},
    "cohere_compass_text": {"rope_parameters": {"sliding_attention": MROPE, "full_attention": MROPE}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 1, "clip_qkv": 8.0, "rope_theta": 1e4},
        "ffn_config": {"hidden_size": WIDTH, "ffn_hidden_size": 24},
    },
    "falcon_h1": {"mamba_d_ssm": 64},
    "funnel": {"block_sizes": [1, 1]},
    "gemma3n_text": {"num_kv_shared_layers": 0, "laurel_rank": 8, "altup_num_inputs": 2, "intermediate_size": INNER},
    "gemma4": {"text_config": {"num_kv_shared_layers": 0}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"linear_head_dim": 16, "linear_num_heads": 2},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lilt": {"hidden_size": 48},
    "longcat_flash": {"num_layers": 1},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 8},
    "mamba2": {"num_heads": 4, "expand": 2},
    "markuplm": {"xpath_unit_hidden_size": 8},
    "mimo_v2_flash": {
        "num_attention_heads": 8, "num_key_value_heads": 8,
        "rope_parameters": {"full_attention": HALF, "sliding_attention": HALF},
    },
    "mistral4": {"head_dim": 16},
    "perceiver": {"num_latents": 8, "d_latents": 32},
    "qwen3_5": {"text_config": {"layer_types": ["linear_attention", "full_attention"]}},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "reformer": {
        "is_decoder": True, "axial_pos_embds_dim": (16, 16), "axial_pos_shape": (8, 8),
        "attn_layers": ["local", "local"], "local_attn_chunk_length": 8,
    },
    "roc_bert": {
        "enable_pronunciation": False, "enable_shape": False, "pronunciation_vocab_size": 8, "shape_vocab_size": 8,
        "pronunciation_embed_dim": 8, "shape_embed_dim": 8,
    },
    "t5": {"decoder_start_token_id": 0},
    "xlm": {"causal": True},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": HYBRID, "layer_types": HYBRID},
    "zamba2": {"num_hidden_layers": 4, "layers_block_type": HYBRID, "layer_types": HYBRID, "mamba_ngroups": 1},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
"""Fields that an architecture has for itself, or that must fit one another."""


WRITES = {"is_decoder": True, "attn_type": "uni"}
"""Fields that make a decoder of what is an encoder by default."""


def tiny_config(name: str, writes: bool = True) -> PretrainedConfig:
    """The configuration of an architecture, by its model type, as small as it works, without dropout.

    `writes`: an encoder that can be a decoder is one.
    """
    kind, own = CONFIG_MAPPING[name], OWN.get(name, {})
    if writes:
        own = {field: value for field, value in WRITES.items() if hasattr(kind(), field)} | own
    return _shrunk(kind, own)


def _shrunk(kind: type[PretrainedConfig], own: dict[str, Any]) -> PretrainedConfig:
    usual = kind()
    fields = usual.to_dict()
    other_names = getattr(kind, "attribute_map", {})
    sizes = {name: size for size, names in SIZES for name in names}
    changed: dict[str, Any] = {}
    for name, size in sizes.items():
        known = name in fields or (name in other_names and other_names[name] not in sizes)
        optional = fields.get(name) is None and name in ("q_lora_rank", "n_inner")
        if not known or optional or isinstance(fields.get(name), list | tuple | dict):
            continue
        changed[name] = 8 if name == "head_dim" and "qk_rope_head_dim" in fields else size
    changed |= {name: 0.0 for name, value in fields.items() if "drop" in name and isinstance(value, float)}
    changed |= {name: None for name in fields if name == "layer_types"}
    parts = getattr(kind, "sub_configs", {})
    for name in parts:
        part = getattr(usual, name, None)
        if isinstance(part, PretrainedConfig):
            changed[name] = _shrunk(type(part), own.get(name, {})).to_dict()
    return kind(**changed | {name: value for name, value in own.items() if name not in parts})
