"""What the matrix cannot build, and what is refused, by task and architecture, each with the words that say why."""

from __future__ import annotations

TIMM = "requires the timm library"

UNBUILT: dict[tuple[str, str], str] = {
    ("text", "blt"): "parameters",  # tables of hashed bytes, whose sizes are fixed
    ("text", "dots3_note"): "per_layer_config",
    ("text", "gemma3n"): TIMM,
    ("text", "gemma4_assistant"): "hidden_size_per_layer_input must be 0",
    ("text", "gemma4_unified_assistant"): "layer types producing a cache",
    ("text", "musicgen"): "no attribute 'dropout'",
    ("text", "musicgen_melody"): "no attribute 'dropout'",
    ("text", "phi4_multimodal"): "parameters",
    ("sequence", "layoutlmv2"): "requires the detectron2 library",
}
"""Not tiny, or not without another package; a new version may change that."""

REFUSED: dict[tuple[str, str], str] = {
    ("text", "cpmant"): "it sees later tokens",
    ("text", "emu3"): "Unrecognized configuration class",
    ("text", "git"): "PEFT refuses one of them",
    ("text", "laguna"): "PEFT renames the factors of",
    ("text", "mimo_v2_flash"): "The size of tensor",  # the tiny one's heads do not fit; the model is not tried
    ("text", "mllama"): "Unrecognized configuration class",
    ("text", "prophetnet"): "cannot be trained on texts of 5 tokens",
    ("text", "reformer"): "cannot be trained on texts of 5 tokens",
    ("text", "xmod"): "Input language unknown",
    ("sequence", "canine"): "input embeddings are not a table",
    ("sequence", "ibert"): "matches no module",
    ("sequence", "perceiver"): "input embeddings are not a table",
    ("sequence", "reformer"): "cannot be trained on texts of 5 tokens",
    ("sequence", "xmod"): "Input language unknown",
}
