"""The bridge: modules and extras in and out of PEFT's model, starts, exports, convolutions, errors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import peft
import pytest
import torch
from torch import nn

from tests.tiny_models import ARCHITECTURES, VOCABULARY, close
from thinwire import peft_bridge
from thinwire.adapters import Adapters, same
from thinwire.models.base import Base, load_base
from thinwire.models.config import LoraConfig, ModelConfig
from thinwire.models.heads import Head
from thinwire.randomness import derive, uniform
from thinwire.settings import ConfigError

TOKENS = torch.arange(2, 26).reshape(2, 12)


def tiny_base(folder: Path, dtype: str = "float32") -> Base:
    return load_base(ModelConfig(name=str(folder), dtype=dtype), "cpu")


def noisy(model, seed: int = 7) -> Adapters:
    """An adapter far from its start, extras too."""
    begin = peft_bridge.start(model, seed)
    return begin.add({key: uniform(derive(seed, *key), *tensor.shape) - 0.5 for key, tensor in begin.items()})


@torch.no_grad()
def logits(network) -> torch.Tensor:
    return network(input_ids=TOKENS).logits.float()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_linear_is_every_linear_layer_but_the_head(tiny, architecture):
    base = tiny_base(tiny(architecture))
    linear = {
        name
        for name, module in base.model.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    }
    adapters = peft_bridge.read(peft_bridge.attach(base, LoraConfig(rank=4, alpha=6.0)))
    assert set(adapters.modules) == linear - {"lm_head"}
    assert len(adapters.modules) == (8 if architecture == "gpt2" else 14)
    assert {module.scale for module in adapters.modules.values()} == {1.5}
    assert not adapters.extras


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_write_then_read_is_the_identity_and_float32(tiny, architecture, dtype):
    extras = () if architecture == "llama-tied" else ("lm_head",)
    model = peft_bridge.attach(tiny_base(tiny(architecture), dtype), LoraConfig(rank=4, extras=extras))
    adapters = noisy(model)
    peft_bridge.write(model, adapters)
    back = peft_bridge.read(model)
    assert same(back, adapters)
    assert {tensor.dtype for _, tensor in back.items()} == {torch.float32}
    assert {parameter.dtype for parameter in peft_bridge.parameters(model).values()} == {torch.float32}
    peft_bridge.write(model, peft_bridge.start(model, 0))
    assert same(back, adapters), "read returns copies"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_adapter_adds_its_product_once(tiny, architecture):
    """Merging scale * B A into the base's weights gives the same logits."""
    model = peft_bridge.attach(tiny_base(tiny(architecture)), LoraConfig(rank=3, alpha=2.0, targets=("all-linear",)))
    adapters = noisy(model)
    peft_bridge.write(model, adapters)
    merged = tiny_base(tiny(architecture)).model
    for name, module in adapters.modules.items():
        weight = merged.get_submodule(name).weight
        product = module.scale * module.b @ module.a
        weight.data += product.T if architecture == "gpt2" else product
    close(logits(peft_bridge.network(model)), logits(merged), 1e-4)


def test_start_is_seeded_bounded_and_changes_nothing(tiny):
    base = tiny_base(tiny("llama"))
    before = logits(base.model)
    model = peft_bridge.attach(base, LoraConfig(rank=4, extras=("lm_head",)))
    one = peft_bridge.start(model, 3)
    assert same(one, peft_bridge.start(model, 3))
    assert not same(one, peft_bridge.start(model, 4))
    for module in one.modules.values():
        bound = 1 / math.sqrt(module.a.shape[1])
        assert module.a.abs().max() <= bound
        assert module.a.abs().max() > 0.9 * bound
        assert not module.b.any()
    name = "model.layers.0.mlp.up_proj"
    expected = (uniform(derive(3, "start", name), 4, 32) * 2 - 1) / math.sqrt(32)
    assert torch.allclose(one.modules[name].a, expected)
    peft_bridge.write(model, noisy(model))
    assert same(one, peft_bridge.start(model, 3)), "extras start at the base's values, whatever the model holds"
    peft_bridge.write(model, one)
    assert torch.allclose(logits(peft_bridge.network(model)), before, atol=1e-6)


def test_disabled_is_the_base_alone(tiny):
    base = tiny_base(tiny("qwen2"))
    before = logits(base.model)
    model = peft_bridge.attach(base, LoraConfig(rank=4, extras=("lm_head",)))
    peft_bridge.write(model, noisy(model))
    with peft_bridge.disabled(model):
        assert torch.equal(logits(peft_bridge.network(model)), before)
    assert not torch.allclose(logits(peft_bridge.network(model)), before, atol=1e-2)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_export_loads_in_peft_with_the_same_logits(tiny, tmp_path, architecture, dtype):
    extras = ("lm_head",) if architecture in ("llama", "gpt2") and dtype == "float32" else ()
    model = peft_bridge.attach(tiny_base(tiny(architecture), dtype), LoraConfig(rank=4, rslora=True, extras=extras))
    adapters = noisy(model)
    held = peft_bridge.read(model)
    peft_bridge.export(model, adapters, tmp_path / "adapter")
    assert same(peft_bridge.read(model), held), "exporting does not touch the model"
    loaded = peft.PeftModel.from_pretrained(tiny_base(tiny(architecture), dtype).model, tmp_path / "adapter")
    peft_bridge.write(model, adapters)
    assert torch.allclose(logits(loaded), logits(peft_bridge.network(model)), atol=1e-5)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny(architecture))
    assert config["task_type"] == "CAUSAL_LM"


def test_export_replaces_a_folder_and_is_read_back(tiny, tmp_path):
    lora = LoraConfig(rank=4, extras=("lm_head", "model.norm"))
    model = peft_bridge.attach(tiny_base(tiny("llama")), lora)
    folder = tmp_path / "adapter"
    for seed in (1, 2):
        peft_bridge.export(model, noisy(model, seed), folder)
        assert same(peft_bridge.load_adapter(model, folder), noisy(model, seed))
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_an_adapter_that_peft_saved_is_read(tiny, tmp_path):
    theirs = peft.get_peft_model(
        tiny_base(tiny("gpt2")).model,  # type: ignore[arg-type]
        peft.LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False),
    )
    theirs.save_pretrained(tmp_path)
    model = peft_bridge.attach(tiny_base(tiny("gpt2")), LoraConfig(rank=4, alpha=8.0, targets=("c_attn",)))
    peft_bridge.write(model, peft_bridge.load_adapter(model, tmp_path))
    assert torch.allclose(logits(peft_bridge.network(model)), logits(theirs), atol=1e-6)


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        (
            LoraConfig(rank=3, targets=("q_proj", "v_proj")),
            r"its rank at model.layers.0.self_attn.q_proj is 4, but lora.rank or lora.ranks is 3 there",
        ),
        (LoraConfig(rank=4), r"it lacks model.layers.0.mlp.down_proj.lora_A.weight"),
        (LoraConfig(rank=4, targets=("q_proj",)), r"it has, and lora.targets or .* v_proj.lora_A.weight|has, and"),
    ],
)
def test_a_foreign_adapter_is_refused_by_what_differs(tiny, tmp_path, lora, words):
    model = peft_bridge.attach(tiny_base(tiny("llama")), LoraConfig(rank=4, targets=("q_proj", "v_proj")))
    peft_bridge.export(model, noisy(model), tmp_path / "adapter")
    other = peft_bridge.attach(tiny_base(tiny("llama")), lora)
    with pytest.raises(ConfigError, match=words):
        peft_bridge.load_adapter(other, str(tmp_path / "adapter"))


def test_a_folder_without_an_adapter_is_refused(tiny, tmp_path):
    model = peft_bridge.attach(tiny_base(tiny("llama")), LoraConfig(rank=4))
    with pytest.raises(ConfigError, match=r"model.adapter = .*no adapter_config.json"):
        peft_bridge.load_adapter(model, tmp_path)


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        (LoraConfig(rank=4, targets=("q_prj",)), r"lora.targets = 'q_prj' matches no module.*q_proj"),
        (LoraConfig(rank=4, targets=("norm",)), r"lora.targets = 'norm' matches no module"),
        (LoraConfig(rank=4, extras=("head",)), r"lora.extras = 'head' matches no module.*lm_head"),
        (LoraConfig(rank=17), r"lora.rank = 17: module model.layers.0.self_attn.k_proj allows at most 16"),
        (
            LoraConfig(rank=4, targets=("q_proj",), extras=("self_attn",)),
            r"matches no module outside lora.extras",
        ),
    ],
)
def test_settings_that_do_not_fit_the_model(tiny, lora, words):
    with pytest.raises(ConfigError, match=words):
        peft_bridge.attach(tiny_base(tiny("llama")), lora)


def test_a_second_adapter_is_refused(tiny):
    base = tiny_base(tiny("llama"))
    peft_bridge.attach(base, LoraConfig(rank=4))
    with pytest.raises(ConfigError, match="has an adapter already"):
        peft_bridge.attach(base, LoraConfig(rank=4))


@pytest.mark.parametrize("extra", ["lm_head", "embed_tokens", "model.norm"])
def test_extras_in_float32_work_inside_a_bfloat16_base(tiny, extra):
    base = tiny_base(tiny("llama"), "bfloat16")
    before = logits(base.model)
    model = peft_bridge.attach(base, LoraConfig(rank=4, extras=(extra,)))
    peft_bridge.write(model, peft_bridge.start(model, 0))
    assert torch.allclose(logits(peft_bridge.network(model)), before, atol=0.1)
    assert logits(peft_bridge.network(model)).shape == (2, 12, VOCABULARY)


class Vision(nn.Module):
    """Two convolutions and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.two(self.one(x).relu()).mean((2, 3)))


def test_convolutions_are_matrices_outside(tmp_path):
    base = Base(Vision().requires_grad_(False), None, "vision", torch.device("cpu"))
    model = peft_bridge.attach(base, LoraConfig(rank=2, alpha=2.0, targets=("one", "two"), extras=("head",)))
    adapters = noisy(model)
    assert adapters.modules["one"].a.shape == (2, 27)
    assert adapters.modules["one"].b.shape == (8, 2)
    assert set(adapters.extras) == {"head.weight", "head.bias"}
    peft_bridge.write(model, adapters)
    assert same(peft_bridge.read(model), adapters)

    merged = Vision()
    for name, module in adapters.modules.items():
        layer = merged.get_submodule(name)
        layer.weight.data += (module.b @ module.a).reshape(layer.weight.shape)
    merged.head.load_state_dict({"weight": adapters.extras["head.weight"], "bias": adapters.extras["head.bias"]})
    images = uniform(5, 2, 3, 6, 6)
    assert torch.allclose(model(images), merged(images), atol=1e-5)

    peft_bridge.export(model, adapters, tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(Vision(), tmp_path / "adapter")
    assert torch.allclose(loaded(images), model(images), atol=1e-6)


def test_a_damaged_adapter_is_named(tiny, tmp_path):
    model = peft_bridge.attach(tiny_base(tiny("llama")), LoraConfig(rank=4))
    peft_bridge.export(model, noisy(model), tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(ConfigError, match=r"adapter_model.safetensors is damaged"):
        peft_bridge.load_adapter(model, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"adapter_config.json is damaged"):
        peft_bridge.load_adapter(model, tmp_path / "adapter")


def test_no_target_and_all_extras_is_training_in_full():
    base = load_base(ModelConfig(name="resnet8", width=8), "cpu", Head("image", ("a", "b"), 0))
    weights = sum(tensor.numel() for tensor in base.model.state_dict().values())
    model = peft_bridge.attach(base, LoraConfig(targets=(), extras=("all",)))
    start = peft_bridge.start(model, 0)
    assert start.modules == {}
    assert start.parameters == weights


def test_statistics_of_batch_normalisation_are_extras():
    """They move while their module is trained, travel as extras do, and stay the base's where it is not."""
    base = load_base(ModelConfig(name="resnet8", width=8, norm="batch"), "cpu", Head("image", ("a", "b"), 0))
    model = peft_bridge.attach(base, LoraConfig(rank=2, targets=("conv1",), extras=("stem_norm",)))
    start = peft_bridge.start(model, 0)
    mean, variance = "stem_norm.running_mean", "stem_norm.running_var"
    assert torch.equal(start.extras[mean], torch.zeros(8))
    assert torch.equal(start.extras[variance], torch.ones(8))
    assert [name for name in start.extras if "running" in name] == [mean, variance]
    assert not any("running" in name for name, _ in peft_bridge.parameters(model))
    peft_bridge.write(model, start)
    network = peft_bridge.network(model).train()
    images = uniform(derive(1, "images"), 4, 3, 8, 8) * 3
    network(images)
    moved = peft_bridge.read(model)
    assert not torch.equal(moved.extras[mean], start.extras[mean])
    held = {name: buffer for name, buffer in network.named_buffers() if "blocks.0.norm1.running_mean" in name}
    assert held
    assert all(torch.equal(buffer, torch.zeros_like(buffer)) for buffer in held.values())
    network.eval()
    with torch.no_grad():
        one = network(images).logits
        peft_bridge.write(model, start)
        assert not torch.allclose(network(images).logits, one)
        peft_bridge.write(model, moved)
        assert torch.equal(network(images).logits, one)
    peft_bridge.write(model, start.add({(variance, "extra"): torch.full((8,), -5.0)}))
    assert float(peft_bridge.read(model).extras[variance].min()) == 0


def test_a_module_may_have_a_rank_of_its_own(tmp_path: Path):
    base = load_base(ModelConfig(name="resnet8", width=8), "cpu", Head("image", ("a", "b"), 0))
    lora = LoraConfig(rank=4, alpha=8.0, targets=("conv1", "shortcut"), ranks={"shortcut": 2, "blocks.0.conv1": 1})
    model = peft_bridge.attach(base, lora)
    start = peft_bridge.start(model, 0)
    found = {name: module.rank for name, module in start.modules.items()}
    assert found == {
        "blocks.0.conv1": 1,
        "blocks.1.conv1": 4,
        "blocks.1.shortcut": 2,
        "blocks.2.conv1": 4,
        "blocks.2.shortcut": 2,
    }
    assert {module.scale for module in start.modules.values()} == {2.0}
    moved = start.add({key: uniform(derive(1, *key), *tensor.shape) for key, tensor in start.items()})
    peft_bridge.write(model, moved)
    peft_bridge.export(model, moved, tmp_path / "out")
    assert same(peft_bridge.load_adapter(model, tmp_path / "out"), moved)
    other = load_base(ModelConfig(name="resnet8", width=8), "cpu", Head("image", ("a", "b"), 0))
    with pytest.raises(ConfigError, match=r"lora\.ranks = 'nowhere' matches no module"):
        peft_bridge.attach(other, LoraConfig(rank=4, targets=("conv1",), ranks={"nowhere": 2}))
