"""Tiny folders of real architectures with a tiny tokenizer, and examples for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from thinwire.data import Example
from thinwire.randomness import permutation
from thinwire.training.batches import Batch
from thinwire.training.forward import rows_at

VOCABULARY = 48
EOS = 1
ARCHITECTURES = ("llama", "llama-tied", "qwen2", "qwen3", "gpt2")


def save_tiny(architecture: str, folder: Path) -> Path:
    """A seeded, tiny model of a real architecture with its tokenizer, in the transformers format."""
    torch.manual_seed(0)
    kind = AutoModelForMaskedLM if architecture == "bert" else AutoModelForCausalLM
    model = kind.from_config(_config(architecture))
    for parameter in model.parameters():  # far from zero, so that a wrong pass shows
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    model.save_pretrained(folder)
    words = {"<pad>": 0, "<eos>": EOS} | {f"w{index}": index for index in range(2, VOCABULARY)}
    plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    pad = {"pad_token": "<pad>"} if architecture == "bert" else {}
    PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>", **pad).save_pretrained(folder)
    return folder


def _config(architecture: str) -> PretrainedConfig:
    if architecture == "gpt2":
        sizes = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
        quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2Config(vocab_size=VOCABULARY, bos_token_id=EOS, eos_token_id=EOS, **sizes, **quiet)
    if architecture == "bert":
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
        quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return BertConfig(vocab_size=VOCABULARY, max_position_embeddings=64, pad_token_id=0, **sizes, **quiet)
    kind = {"qwen2": Qwen2Config, "qwen3": Qwen3Config}.get(architecture, LlamaConfig)
    return kind(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=64,
        tie_word_embeddings=architecture == "llama-tied",
        bos_token_id=EOS,
        eos_token_id=EOS,
    )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Architecture -> folder, written once a session."""
    return cache(lambda architecture: save_tiny(architecture, tmp_path_factory.mktemp(architecture)))


def close(got: torch.Tensor, want: torch.Tensor, share: float) -> None:
    """To a share of the largest logit: a small one is a sum of large terms, and rounds as they do."""
    torch.testing.assert_close(got, want, rtol=0, atol=share * float(want.abs().max()))


def copying(count: int, seed: int = 0, longest: int = 9) -> list[Example]:
    """Prompts of 2 to `longest` words; the response repeats the first two and ends."""
    return [
        _copying(permutation(seed * 1000 + index, VOCABULARY - 2), 2 + index % (longest - 1)) for index in range(count)
    ]


def _copying(order: list[int], size: int) -> Example:
    prompt = tuple(2 + value for value in order[:size])
    response = (*prompt[:2], EOS)
    return Example(prompt + response, (-100,) * size + response)


def logits_at(network: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Float32 logits (N, V) at `batch.positions`, over the vocabulary or over the classes."""
    rows = rows_at(network, batch)
    return rows.logits(rows.states)
