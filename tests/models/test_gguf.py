"""A base out of a GGUF file: the same model as in safetensors, and what is no such file, by name."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.models.test_peft_bridge import logits, noisy, tiny_base
from tests.tiny_models import VOCABULARY, close
from thinwire import peft_bridge
from thinwire.models.base import load_base
from thinwire.models.config import LoraConfig, ModelConfig
from thinwire.models.heads import Head
from thinwire.models.merging import bake
from thinwire.settings import ConfigError

gguf = pytest.importorskip("gguf", reason="needs thinwire[gguf]")

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def renamed(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
    return f"blk.{layer[1]}.{NAMES[layer[2]]}.{kind}" if layer else f"{NAMES[stem]}.{kind}"


def write(tiny, path, quantised=False, architecture="qwen2", **more):
    """The tiny Qwen2 as a GGUF file; `more`: further texts of its metadata, or arrays, which are tensors."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(48)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<pad>", "<eos>", *(chr(65 + number) for number in range(VOCABULARY - 3)), "AB"])
    writer.add_token_merges(["A B"])
    writer.add_token_types([3, 3, *[1] * (VOCABULARY - 2)])
    writer.add_eos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    tensors = {renamed(name): value.numpy() for name, value in load_file(tiny("qwen2") / "model.safetensors").items()}
    for name, value in more.items():
        if isinstance(value, np.ndarray):
            tensors[name] = value
        else:
            writer.add_string(name.replace("__", "."), value)
    for name, value in tensors.items():
        if quantised and value.ndim == 2 and value.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tiny, tmp_path_factory):
    return write(tiny, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_a_file_and_its_folder_are_the_model_that_was_written(tiny, file):
    want = logits(tiny_base(tiny("qwen2")).model)
    for name in (file, file.parent):
        base = load_base(ModelConfig(name=str(name)), "cpu")
        torch.testing.assert_close(logits(base.model), want, rtol=1e-5, atol=1e-5)
    assert base.longest == 64
    assert base.tokenizer("ACE")["input_ids"] == [2, 4, 6]
    assert (base.tokenizer.eos_token, base.tokenizer.pad_token_id) == ("<eos>", 1)
    assert base.tokenizer.chat_template == TEMPLATE


def test_quantised_blocks_are_plain_weights_that_are_adapted_merged_and_saved(tiny, tmp_path):
    path = write(tiny, tmp_path / "q8.gguf", quantised=True)
    base = load_base(ModelConfig(name=str(path), dtype="bfloat16"), "cpu")
    assert {value.dtype for value in base.model.parameters()} == {torch.bfloat16}
    base = load_base(ModelConfig(name=str(path)), "cpu")
    want = logits(tiny_base(tiny("qwen2")).model)
    assert 1e-6 < float((logits(base.model) - want).abs().max() / want.abs().max()) < 0.05
    bare = load_base(ModelConfig(name=str(path)), "cpu")
    model = peft_bridge.attach(base, LoraConfig(rank=2))
    adapters = noisy(model)
    peft_bridge.write(model, adapters)
    bake(bare.model, adapters)
    bare.model.save_pretrained(tmp_path / "merged")
    bare.tokenizer.save_pretrained(tmp_path / "merged")
    merged = load_base(ModelConfig(name=str(tmp_path / "merged")), "cpu")
    close(logits(merged.model), logits(peft_bridge.network(model)), 1e-4)


def test_a_classifier_on_a_gguf_base(file):
    base = load_base(ModelConfig(name=str(file)), "cpu", Head("sequence", ("a", "b"), 0))
    assert base.extras == ("score",)
    assert base.model.config.pad_token_id == base.tokenizer.pad_token_id == 1


def test_what_is_no_whole_gguf_model_is_named(tiny, file, tmp_path):
    def refused(path, words, **fields):
        with pytest.raises(ConfigError, match=words):
            load_base(ModelConfig(name=str(path), **fields), "cpu")

    refused(file, r"model.bits = 4: a GGUF file is dequantised", bits=4)
    content = file.read_bytes()
    for kept in (0, 3, 40, 2000, len(content) - 5000):
        (tmp_path / "cut.gguf").write_bytes(content[:kept])
        refused(tmp_path / "cut.gguf", r"model.name = .*cut.gguf.*(cannot be loaded|is not a GGUF file)")
    (tmp_path / "cut.gguf").write_bytes(b"PK" + content)
    refused(tmp_path, r"cut.gguf is not a GGUF file: it does not begin")
    (tmp_path / "b.gguf").write_bytes(content)
    refused(tmp_path, r"holds several models; allowed is the path of one of b.gguf, cut.gguf")
    part = tmp_path / "big-00001-of-00003.gguf"
    part.write_bytes(content)
    refused(part, r"is one part of several; allowed is one file")
    (tmp_path / "notes.txt").write_text("no model")
    refused(tmp_path / "notes.txt", r"it is a file; allowed of files is a model in GGUF")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"architecture": "whale"}, r"architecture whale is not supported"),
        ({"rope_freqs.weight": np.ones(8, np.float32)}, r"leaves out such as rope_freqs.weight"),
        ({"qwen2__rope__scaling__type": "yarn"}, r"its positions are scaled \(qwen2.rope.scaling.type = yarn\)"),
    ],
    ids=str,
)
def test_what_transformers_reader_would_leave_out_is_refused(tiny, tmp_path, more, words):
    with pytest.raises(ConfigError, match=words):
        load_base(ModelConfig(name=str(write(tiny, tmp_path / "odd.gguf", **more))), "cpu")
