"""Every architecture of the installed transformers that can be built tiny: adapted, trained, exported, merged.

What cannot be built here, and what is refused, is listed by name with the reason; a list that says too much fails too.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from transformers.models.auto import modeling_auto

from tests.models.architectures import tiny_config
from tests.models.refusals import REFUSED, UNBUILT
from tests.tiny_models import EOS, copying, save_tiny
from thinwire import peft_bridge
from thinwire.adapters import Adapters, same
from thinwire.data import ClassExample, Example
from thinwire.engine.jobs import Job
from thinwire.method import Plan
from thinwire.models.base import Base, load_base
from thinwire.models.config import LoraConfig, ModelConfig
from thinwire.models.heads import HEAD_CLASSES, Head
from thinwire.models.merging import bake
from thinwire.randomness import derive, uniform
from thinwire.settings import ConfigError
from thinwire.training import forward
from thinwire.training.batches import collate
from thinwire.training.config import TrainConfig
from thinwire.training.forward import outcomes_at
from thinwire.training.trainer import Trainer
from thinwire.training.trial import try_out

pytestmark = pytest.mark.long

CAUSAL = [("text", name) for name in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
CLASSIFIERS = [("sequence", name) for name in modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES]
TOKENS = torch.tensor([[*range(2, 14), EOS], [*range(13, 1, -1), EOS]])
LARGEST = 4_000_000
"""Parameters of a model that is no longer tiny."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize(("task", "name"), [pytest.param(*case, id="-".join(case)) for case in (*CAUSAL, *CLASSIFIERS)])
def test_an_architecture(task, name, tmp_path, tokenizer):
    if (task, name) in UNBUILT:
        with pytest.raises(Exception, match=UNBUILT[task, name]):  # built now? take it off the list
            save(task, name, tmp_path)
        return
    save(task, name, tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / file, tmp_path)
    reason = REFUSED.get((task, name))
    if reason is not None:
        with pytest.raises(ConfigError, match=reason):
            adapt_and_check(task, tmp_path)  # works now? take it off the list
    else:
        adapt_and_check(task, tmp_path)


def test_the_lists_name_architectures_that_exist():
    assert {*REFUSED, *UNBUILT} <= {*CAUSAL, *CLASSIFIERS}
    assert len({*REFUSED, *UNBUILT}) == len(REFUSED) + len(UNBUILT)


def save(task: str, name: str, folder: Path) -> None:
    """Write a seeded, tiny model of an architecture."""
    kind = getattr(transformers, "AutoModelForCausalLM" if task == "text" else HEAD_CLASSES[task])
    with torch.device("meta"):
        config = tiny_config(name, task == "text")
        size = sum(parameter.numel() for parameter in kind.from_config(config).parameters())
    assert size < LARGEST, f"{size} parameters"
    torch.manual_seed(0)
    model = kind.from_config(config)
    for parameter in model.parameters():  # far from zero, so that a wrong pass shows
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)


def adapt_and_check(task: str, folder: Path) -> None:
    """Adapt all linear layers and the head, train a step, export: plain PEFT and the merged model must say the same."""
    base = opened(task, folder)
    head = head_of(base.model) if task == "text" else ()
    model = peft_bridge.attach(base, LoraConfig(rank=2, alpha=4.0, targets=("all-linear", *head)))
    try_out(base, model, task)
    start = peft_bridge.start(model, 0)
    begun = start.put({key: uniform(derive(1, *key), *tensor.shape) * 0.4 - 0.2 for key, tensor in start.items()})
    trainer = Trainer(base, model, TrainConfig(batch=2, accumulation=1, steps=1, learning_rate=1e-2), 1)
    trained = trainer.train([Job(Plan(begun, ("a", "b", "extra")), examples(task), 0, 0)])[0].adapters
    assert not same(begun, trained)
    peft_bridge.write(model, trained)
    if task == "text":
        check_chunks(base, model)
    want = logits(task, peft_bridge.network(model))
    peft_bridge.export(model, trained, folder / "adapter")
    assert same(peft_bridge.load_adapter(model, folder / "adapter"), trained)
    check_equal(logits(task, peft.PeftModel.from_pretrained(plain(task, folder), folder / "adapter")), want)
    check_equal(logits(task, merged(task, folder, trained)), want)


def check_chunks(base: Base, model: Any) -> None:
    """Logits that are made in chunks give the losses of all at once."""
    network, batch = peft_bridge.network(model), collate(examples("text"))
    want = outcomes_at(network, batch)[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "CHUNK", 3 * base.model.config.get_text_config().vocab_size)
        check_equal(outcomes_at(network, batch)[1], want)


def merged(task: str, folder: Path, adapters: Adapters) -> Any:
    bare = opened(task, folder).model
    bake(bare, adapters)
    bare.save_pretrained(folder / "merged")
    return plain(task, folder / "merged")


def check_equal(found: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5 * max(1.0, float(want.abs().max())))


def opened(task: str, folder: Path) -> Base:
    return load_base(ModelConfig(name=str(folder)), "cpu", None if task == "text" else Head(task, ("a", "b"), 0))


def plain(task: str, folder: Path) -> Any:
    if task == "text":
        return transformers.AutoModelForCausalLM.from_pretrained(folder)
    return getattr(transformers, HEAD_CLASSES[task]).from_pretrained(folder, num_labels=2, ignore_mismatched_sizes=True)


def head_of(network: Any) -> tuple[str, ...]:
    """The name of the output embeddings, if they are a linear layer."""
    head = network.get_output_embeddings()
    return tuple(name for name, module in network.named_modules() if module is head and type(head) is torch.nn.Linear)


@torch.no_grad()
def logits(task: str, network: Any) -> torch.Tensor:
    extra = {"use_cache": False} if task == "text" else {"attention_mask": torch.ones_like(TOKENS)}
    return network.eval()(input_ids=TOKENS, **extra).logits.float()


def examples(task: str) -> list[Example]:
    if task == "text":
        return copying(2)
    return [ClassExample(tuple(TOKENS[row].tolist()), (row,)) for row in range(2)]
