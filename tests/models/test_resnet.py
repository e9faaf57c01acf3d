"""ResNets from a seed: sizes as published, what is trained, and that only the seed is needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thinwire import peft_bridge
from thinwire.adapters import EXTRA
from thinwire.data import Picture
from thinwire.engine.jobs import Job
from thinwire.evaluation import evaluate
from thinwire.method import Plan
from thinwire.models.base import load_base
from thinwire.models.config import LoraConfig, ModelConfig
from thinwire.models.heads import Head
from thinwire.settings import ConfigError
from thinwire.training.config import TrainConfig
from thinwire.training.trainer import Trainer

TEN = tuple("0123456789")
LORA = LoraConfig(rank=2, alpha=32.0, targets=("conv1", "conv2", "shortcut"), extras=("stem", "all-norm"))


def network(name="resnet8", width=8, seed=0, classes=TEN):
    return load_base(ModelConfig(name=name, width=width), "cpu", Head("image", classes, seed))


@pytest.mark.parametrize(("name", "parameters"), [("resnet8", 1_227_594), ("resnet18", 11_173_962)])
def test_as_many_parameters_as_published(name, parameters):
    assert sum(parameter.numel() for parameter in network(name, 64).model.parameters()) == parameters


def test_the_base_is_the_seeds():
    one, same, other = (network(seed=seed) for seed in (3, 3, 4))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    weight = one.model.blocks[1].conv2.weight
    assert float(weight.var()) == pytest.approx(2 / weight[0].numel(), rel=0.1)
    assert not any(parameter.requires_grad for parameter in one.model.parameters())


@pytest.mark.parametrize("width", [5, 8, 16, 20, 64])
def test_any_width_and_any_size_of_image(width):
    for side in (8, 9, 32):
        assert network(width=width).model(torch.zeros(2, 3, side, side)).logits.shape == (2, 10)


def test_every_convolution_and_every_norm_by_one_word():
    base = network(width=8)
    model = peft_bridge.attach(base, LoraConfig(rank=2, targets=("all-conv",), extras=("all-norm",)))
    start = peft_bridge.start(model, 0)
    assert len(start.modules) == 1 + 3 * 2 + 2
    assert {name.rsplit(".", 1)[0].rsplit(".", 1)[-1] for name in start.extras} == {
        "stem_norm", "norm1", "norm2", "shortcut_norm", "head",
    }  # fmt: skip


def pictures(count=12, side=8):
    """A bright left or right half, or none, in noise."""
    made = []
    for index in range(count):
        pixels = torch.from_numpy(np.random.default_rng(index).integers(0, 80, (3, side, side)))
        if index % 3:
            pixels[:, :, (index % 3 - 1) * side // 2 :][:, :, : side // 2] += 150
        made.append(Picture((), (index % 3,), pixels.to(torch.uint8)))
    return made


def test_a_resnet_learns_from_its_random_base_and_its_adapter_is_read_by_peft(tmp_path):
    import peft

    base = network(classes=tuple("abc"), width=16)
    model = peft_bridge.attach(base, LORA)
    start = peft_bridge.start(model, 0)
    config = TrainConfig(steps=30, batch=12, learning_rate=5e-3)
    job = Job(Plan(start, frozenset({"a", "b", EXTRA})), pictures(), 1, 0)
    done = Trainer(base, model, config, 1).train([job])[0]
    assert done.tokens == 0
    assert evaluate(base, model, start, pictures()).accuracy < 0.7
    scores = evaluate(base, model, done.adapters, pictures(30))
    assert (scores.accuracy, scores.macro_f1) == (1.0, 1.0)
    one_by_one = [evaluate(base, model, done.adapters, [picture]).loss for picture in pictures(30)]
    assert scores.loss == pytest.approx(sum(one_by_one) / 30, rel=1e-4)
    peft_bridge.export(model, done.adapters, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(network(classes=tuple("abc"), width=16).model, tmp_path / "adapter").eval()
    pixels = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        mine = peft_bridge.network(model).eval()(pixels).logits
        assert torch.allclose(theirs.base_model.model(pixels).logits, mine, atol=1e-5)


def test_a_resnet_without_classes_is_refused():
    with pytest.raises(ConfigError, match=r"model\.name = 'resnet8'"):
        load_base(ModelConfig(name="resnet8"), "cpu")


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A tiny random ViT in a folder, with the scaling it wants."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    folder = tmp_path_factory.mktemp("vit")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=7, **sizes)).save_pretrained(folder)
    ViTImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.2, 0.3]).save_pretrained(folder)
    return folder


def test_a_vision_transformer_has_lora_on_query_and_value_and_a_new_head(vit):
    base = load_base(ModelConfig(name=str(vit)), "cpu", Head("image", tuple("abc"), 0))
    assert (base.image_size, base.tokenizer, base.extras) == (8, None, ("classifier",))
    assert base.model.config.image_mean == [0.4, 0.5, 0.6]
    model = peft_bridge.attach(base, LoraConfig(rank=4, targets=("q_proj", "v_proj")))
    start = peft_bridge.start(model, 0)
    assert {module.rsplit(".", 1)[-1] for module in start.modules} == {"q_proj", "v_proj"}
    assert len(start.modules) == 4
    assert start.extras["classifier.weight"].shape == (3, 32)
    config = TrainConfig(steps=80, batch=12, learning_rate=1e-2)
    job = Job(Plan(start, frozenset({"a", "b", EXTRA})), pictures(), 1, 0)
    done = Trainer(base, model, config, 1).train([job])[0]
    assert evaluate(base, model, done.adapters, pictures()).loss < evaluate(base, model, start, pictures()).loss / 2


def test_batch_normalisation_of_a_base_keeps_its_statistics(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    ResNetForImageClassification(ResNetConfig(num_labels=3, **sizes)).save_pretrained(tmp_path)
    base = load_base(ModelConfig(name=str(tmp_path)), "cpu", Head("image", tuple("abc"), 0))
    assert base.model.config.image_mean == [0.5, 0.5, 0.5]
    assert base.image_size is None
    model = peft_bridge.attach(base, LoraConfig(rank=2, targets=("all-conv",)))
    buffers = {name: buffer.clone() for name, buffer in base.model.named_buffers()}
    job = Job(Plan(peft_bridge.start(model, 0), frozenset({"a", "b", EXTRA})), pictures(side=32), 1, 0)
    Trainer(base, model, TrainConfig(steps=2, batch=4), 1).train([job])
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in base.model.named_buffers())
