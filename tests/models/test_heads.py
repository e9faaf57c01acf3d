"""Classifiers: the head is new, from the seed, trained in full and no target; the backbone is the base's."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_models import logits_at
from thinwire import peft_bridge
from thinwire.adapters import EXTRA
from thinwire.data import ClassExample, TokenClassExample
from thinwire.engine.jobs import Job
from thinwire.evaluation import evaluate
from thinwire.method import Plan
from thinwire.models.base import load_base
from thinwire.models.config import LoraConfig, ModelConfig
from thinwire.models.heads import Head
from thinwire.randomness import derive, uniform
from thinwire.settings import ConfigError
from thinwire.training.batches import collate
from thinwire.training.config import TrainConfig
from thinwire.training.trainer import Trainer

CLASSES = ("a", "b", "c")
HEADS = {("llama", "sequence"): {"score.weight"}, ("gpt2", "sequence"): {"score.weight"}} | {
    ("llama", "token"): {"score.weight", "score.bias"},
    ("bert", "token"): {"classifier.weight", "classifier.bias"},
    ("bert", "sequence"): {
        "classifier.weight",
        "classifier.bias",
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
    },
}


def classifier(folder, task="sequence", seed=0):
    return load_base(ModelConfig(name=str(folder)), "cpu", Head(task, CLASSES, seed))


@pytest.mark.parametrize(("architecture", "task"), HEADS, ids=str)
def test_the_head_is_an_extra_from_the_seed_and_no_target(tiny, architecture, task):
    base, other, again = (classifier(tiny(architecture), task, seed) for seed in (0, 1, 0))
    assert base.fingerprint == other.fingerprint
    start, changed, same = (
        peft_bridge.start(peft_bridge.attach(one, LoraConfig(rank=2)), 0) for one in (base, other, again)
    )
    assert set(start.extras) == HEADS[architecture, task]
    assert all(torch.equal(start.extras[name], same.extras[name]) for name in start.extras)
    assert not any(name.removesuffix(".weight").endswith(module) for name in start.extras for module in start.modules)
    name = min(HEADS[architecture, task], key=lambda name: "weight" not in name)
    values = start.extras[name]
    bound = values.shape[1] ** -0.5
    assert torch.equal(values, (uniform(derive(0, "head", name), *values.shape) * 2 - 1) * bound)
    assert not torch.equal(values, changed.extras[name])


def test_the_backbone_is_the_bases(tiny):
    stored = load_file(tiny("bert") / "model.safetensors")
    for name, value in classifier(tiny("bert"), "token").model.named_parameters():
        assert name.startswith("classifier") or torch.equal(value, stored[name]), name


def test_a_head_that_the_base_has_is_replaced(tiny, tmp_path):
    old = classifier(tiny("bert"), seed=5)
    old.model.save_pretrained(tmp_path / "finetuned")
    old.tokenizer.save_pretrained(tmp_path / "finetuned")
    fresh, kept = classifier(tmp_path / "finetuned", seed=7), classifier(tiny("bert"), seed=7)
    assert torch.equal(fresh.model.classifier.weight, kept.model.classifier.weight)
    assert torch.equal(fresh.model.bert.pooler.dense.weight, old.model.bert.pooler.dense.weight)
    assert fresh.extras == ("classifier",)
    more = load_base(ModelConfig(name=str(tmp_path / "finetuned")), "cpu", Head("sequence", tuple("abcde"), 0))
    assert more.model.classifier.weight.shape == (5, 32)


def test_a_backbone_that_lacks_a_tensor_is_refused_not_drawn(tiny, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((tiny("bert") / name).read_text())
    tensors = load_file(tiny("bert") / "model.safetensors")
    tensors.pop("bert.encoder.layer.1.output.dense.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"its weights lack bert.encoder.layer.1.output.dense.weight"):
        classifier(tmp_path)


ROWS = [tuple(2 + (7 * size + place) % 40 for place in range(2 + size)) for size in range(6)]
TEXTS = [ClassExample(row, (size % 3,)) for size, row in enumerate(ROWS)]
TAGS = [TokenClassExample(row, (-100, *(token % 3 for token in row[1:]))) for row in ROWS]


@pytest.mark.parametrize(("architecture", "task"), HEADS, ids=str)
def test_padding_changes_nothing_and_the_model_is_called_as_it_is_meant(tiny, architecture, task):
    base = classifier(tiny(architecture), task)
    examples = TEXTS if task == "sequence" else TAGS
    with torch.no_grad():
        together = logits_at(base.model, collate(examples))
        apart = torch.cat([logits_at(base.model, collate([example])) for example in examples])
        plain = [base.model(torch.tensor([example.tokens])).logits for example in examples]
    assert torch.allclose(together, apart, atol=1e-5)
    expected = plain if task == "sequence" else [logits[0, 1:] for logits in plain]
    assert torch.allclose(together, torch.cat(expected), atol=1e-5)


@pytest.mark.parametrize(("architecture", "task"), HEADS, ids=str)
def test_a_classifier_learns_and_its_export_is_read_by_peft(tiny, architecture, task, tmp_path):
    import peft
    import transformers

    base = classifier(tiny(architecture), task)
    model = peft_bridge.attach(base, LoraConfig(rank=4))
    start = peft_bridge.start(model, 0)
    examples = TEXTS if task == "sequence" else TAGS
    job = Job(Plan(start, frozenset({"a", "b", EXTRA})), examples, 1, 0)
    done = Trainer(base, model, TrainConfig(steps=120, batch=6, learning_rate=1e-2), 1).train([job])[0]
    before, after = (evaluate(base, model, adapters, examples) for adapters in (start, done.adapters))
    assert after.loss < before.loss / 3
    assert after.accuracy == after.macro_f1 == after.exact == 1
    peft_bridge.export(model, done.adapters, tmp_path / "adapter")
    kind = {"sequence": "AutoModelForSequenceClassification", "token": "AutoModelForTokenClassification"}[task]
    plain = getattr(transformers, kind).from_pretrained(tiny(architecture), num_labels=3)
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    tokens = torch.tensor([examples[3].tokens])
    with torch.no_grad():
        mine = peft_bridge.network(model).eval()(tokens).logits
        assert torch.allclose(theirs(tokens).logits, mine, atol=1e-5)


def test_an_extra_of_the_users_own_may_hold_the_new_ones(tiny):
    base = classifier(tiny("bert"))
    start = peft_bridge.start(peft_bridge.attach(base, LoraConfig(rank=2, extras=("pooler", "classifier"))), 0)
    assert set(start.extras) == HEADS["bert", "sequence"]


def test_the_labels_are_in_the_models_configuration(tiny):
    config = classifier(tiny("llama")).model.config
    assert config.id2label == {0: "a", 1: "b", 2: "c"}
    assert json.loads(json.dumps(config.label2id)) == {"a": 0, "b": 1, "c": 2}
