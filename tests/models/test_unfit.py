"""What cannot be a base, and limits that only the model itself knows: each a named error, or handled."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.tiny_models import VOCABULARY, logits_at
from thinwire.data import ClassExample
from thinwire.models.base import load_base
from thinwire.models.config import ModelConfig
from thinwire.models.heads import Head
from thinwire.settings import ConfigError
from thinwire.training.batches import collate

SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
ENCODER = SIZES | {"intermediate_size": 48, "max_position_embeddings": 64}
DECODER = ENCODER | {"num_key_value_heads": 1, "head_dim": 16}
SEQUENCE = Head("sequence", ("a", "b"), 0)


def refused(folder, words, head=None, **fields):
    with pytest.raises(ConfigError, match=rf"^model\.(name|bits) = .*{words}"):
        load_base(ModelConfig(name=str(folder), **fields), "cpu", head)


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of the tiny Llama, to be spoilt."""
    return shutil.copytree(tiny("llama"), tmp_path / "model")


def saved(model, tiny, folder):
    """A random model of a class, with the tiny tokenizer."""
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny("llama") / name, folder)
    return folder


def edited(folder, name="config.json", **change):
    values = json.loads((folder / name).read_text()) | change
    (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return folder


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "XLNet", "Gemma3"])
def test_a_model_that_sees_later_tokens_is_no_base_for_text(tiny, tmp_path, kind):
    torch.manual_seed(0)
    if kind == "XLNet":
        sizes = {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48}
        model = transformers.XLNetLMHeadModel(transformers.XLNetConfig(**sizes))
    elif kind == "Gemma3":
        config = transformers.Gemma3TextConfig(**DECODER, use_bidirectional_attention=True)
        model = transformers.Gemma3ForCausalLM(config)
    else:
        config = getattr(transformers, f"{kind}Config")(**ENCODER)
        model = getattr(transformers, f"{kind}ForMaskedLM")(config)
    refused(saved(model, tiny, tmp_path), "it sees later tokens.*allowed with data.task = text is a causal")


def test_the_same_architecture_as_a_decoder_is_one(tiny, tmp_path):
    torch.manual_seed(0)
    model = transformers.BertLMHeadModel(transformers.BertConfig(**ENCODER, is_decoder=True))
    assert load_base(ModelConfig(name=str(saved(model, tiny, tmp_path))), "cpu").longest == 64


def test_an_encoder_with_a_decoder_is_no_base_for_text(tiny, tmp_path):
    config = transformers.T5Config(vocab_size=VOCABULARY, d_model=32, num_layers=1, num_heads=2, d_kv=16, d_ff=48)
    model = transformers.T5ForConditionalGeneration(config)
    refused(saved(model, tiny, tmp_path), "t5 is an encoder and a decoder; allowed with data.task = text")


def test_positions_that_begin_with_an_offset_leave_fewer_tokens(tiny, tmp_path):
    roberta = transformers.RobertaForMaskedLM(transformers.RobertaConfig(**ENCODER, pad_token_id=1))
    base = load_base(ModelConfig(name=str(saved(roberta, tiny, tmp_path / "roberta"))), "cpu", SEQUENCE)
    assert base.longest == 62
    with torch.no_grad():
        assert base.model(torch.full((1, 62), 5)).logits.isfinite().all()
        with pytest.raises((IndexError, RuntimeError)):
            base.model(torch.full((1, 63), 5))
    sizes = SIZES | {"ffn_dim": 48, "max_position_embeddings": 64, "word_embed_proj_dim": 32}
    opt = transformers.OPTForCausalLM(transformers.OPTConfig(**sizes))
    assert load_base(ModelConfig(name=str(saved(opt, tiny, tmp_path / "opt"))), "cpu").longest == 64


def test_no_limit_is_no_limit(tiny, tmp_path):
    sizes = {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48}
    xlnet = transformers.XLNetLMHeadModel(transformers.XLNetConfig(**sizes))
    assert xlnet.config.max_position_embeddings == -1
    assert load_base(ModelConfig(name=str(saved(xlnet, tiny, tmp_path / "xlnet"))), "cpu", SEQUENCE).longest is None
    bloom = transformers.BloomForCausalLM(transformers.BloomConfig(vocab_size=48, hidden_size=32, n_layer=1, n_head=2))
    assert load_base(ModelConfig(name=str(saved(bloom, tiny, tmp_path / "bloom"))), "cpu").longest is None


def test_a_token_without_an_embedding_is_named(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|user|>"])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    base = load_base(ModelConfig(name=str(folder)), "cpu")
    base.check([base.tokenizer("w2 w47")["input_ids"], []])
    with pytest.raises(ConfigError, match=r"writes '<\|user\|>' as token 48, but its embeddings have 48 rows"):
        base.check([(1, 2), base.tokenizer("w2 <|user|>")["input_ids"]])


def test_padding_needs_no_weights_of_its_own(folder):
    """A padding token beyond the embeddings, or none: the classifier still finds the last token of every text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    base = load_base(ModelConfig(name=str(folder)), "cpu", SEQUENCE)
    assert base.model.config.pad_token_id == base.tokenizer.pad_token_id == 1
    with torch.no_grad():
        pair = logits_at(base.model, collate([ClassExample((5, 6, 7), (0,)), ClassExample((8,), (1,))]))
        torch.testing.assert_close(pair[1:], base.model(torch.tensor([[8]])).logits)
    for name in ("tokenizer_config.json", "tokenizer.json"):
        values = json.loads((folder / name).read_text())
        values = {key: value for key, value in values.items() if key not in ("eos_token", "pad_token")}
        (folder / name).write_text(json.dumps(values))
    edited(folder, pad_token_id=-1)
    refused(folder, "neither it nor its tokenizer has a token for padding", SEQUENCE)
    assert load_base(ModelConfig(name=str(folder)), "cpu").tokenizer.pad_token_id is None


def test_folders_that_are_no_base_say_what_they_are(folder, tmp_path):
    edited(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    refused(folder, "its weights are quantised by gptq; allowed are weights in full precision")
    edited(folder, quantization_config=None, model_type="own", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    refused(folder, "knows no model_type 'own'. It comes with code of its own .auto_map., which is never run")
    edited(folder, model_type=None)
    refused(folder, "its config.json names no model_type")
    (folder / "config.json").write_text("{")
    refused(folder, "cannot be loaded: .*not a valid JSON")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    refused(folder, r"holds an adapter; allowed is model.adapter for it, with its base \(some/base\) as model.name")
    nested = tmp_path / "sentences" / "0_Transformer"
    nested.mkdir(parents=True)
    (nested / "config.json").write_text("{}")
    refused(nested.parent, "the folder has no config.json; 0_Transformer/ in it has one")


def test_weights_that_are_pickled_missing_or_of_another_shape_are_named(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {name: f"model-0000{1 + at % 2}-of-00002.safetensors" for at, name in enumerate(tensors)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}} | index))
    refused(folder, "cannot be loaded: .*model-00002-of-00002.safetensors")
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK")
    refused(folder, r"its weights are pickled \(pytorch_model.bin\), which can run code and is never read; allowed are")
    save_file(tensors | {"model.norm.weight": torch.ones(31)}, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"cannot be loaded: its model.norm.weight is \(31,\), but its configuration makes it \(32,\)")
    save_file(tensors | {"model.norm.weight": torch.full((32,), torch.nan)}, folder / "model.safetensors")
    refused(folder, r"its logits are not numbers \(NaN\)")


def test_a_folder_without_a_tokenizer_is_named(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    refused(folder, "cannot be loaded")
