"""The loop: learns, moves only what a plan says, is deterministic, resumes its schedule, order and optimizer."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_models import ARCHITECTURES, copying
from thinwire import peft_bridge
from thinwire.adapters import Adapters, same
from thinwire.data import Example
from thinwire.engine.jobs import Job, TrainingResult
from thinwire.method import Plan
from thinwire.models.base import load_base
from thinwire.models.config import LoraConfig, ModelConfig
from thinwire.training.config import TrainConfig
from thinwire.training.trainer import Trainer

ALL = frozenset({"a", "b", "extra"})
CONFIG = TrainConfig(steps=4, batch=4, learning_rate=1e-2)


def set_up(folder, config: TrainConfig = CONFIG, rounds: int = 4, dtype: str = "float32", **lora):
    base = load_base(ModelConfig(name=str(folder), dtype=dtype), "cpu")
    model = peft_bridge.attach(base, LoraConfig(rank=4, **lora))
    return Trainer(base, model, config, rounds), peft_bridge.start(model, 1)


def run(trainer: Trainer, begin: Adapters, parts=ALL, examples=None, **job) -> TrainingResult:
    given = {"seed": 5, "round": 0} | job
    return trainer.train([Job(Plan(begin, parts), examples or copying(40), **given)])[0]


def frozen(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.base._weights.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_reduces_the_loss_and_leaves_the_base(tiny, architecture):
    trainer, begin = set_up(tiny(architecture), replace(CONFIG, steps=40, schedule="cosine", warmup=4), rounds=1)
    before = frozen(trainer)
    done = run(trainer, begin)
    assert done.steps == len(done.losses) == 40
    assert sum(done.losses[-5:]) < 0.8 * sum(done.losses[:5])
    assert done.loss == pytest.approx(sum(done.losses) / 40)
    assert done.tokens == pytest.approx(40 * 4 * sum(len(e.tokens) for e in copying(40)) / 40, rel=0.01)
    assert all(torch.equal(before[name], tensor) for name, tensor in frozen(trainer).items())


@pytest.mark.parametrize("parts", [{"a"}, {"b"}, {"extra"}, {"b", "extra"}, ALL])
def test_only_what_the_plan_says_moves(tiny, parts):
    trainer, begin = set_up(tiny("llama"), extras=("lm_head",))
    warm = run(trainer, begin).adapters  # b is no longer zero, so that a has a gradient
    done = run(trainer, warm, frozenset(parts)).adapters
    moved = {key[1] for key, tensor in done.items() if not torch.equal(tensor, warm[key])}
    assert moved == set(parts)


def test_same_seed_same_bits_in_any_order_and_company(tiny):
    trainer, begin = set_up(tiny("llama"), dropout=0.2)
    jobs = [Job(Plan(begin, ALL), copying(30, seed), seed, 1) for seed in (1, 2)]
    one, two = trainer.train(jobs)
    torch.manual_seed(99)
    again = trainer.train(jobs[1:])[0]
    assert same(two.adapters, again.adapters)
    assert two.losses == again.losses
    assert not same(one.adapters, two.adapters)
    state = torch.random.get_rng_state()
    trainer.train(jobs[:1])
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator is left alone"


def test_dropout_depends_on_seed_and_round(tiny):
    constant = [copying(1)[0]] * 8
    trainer, begin = set_up(tiny("llama"), replace(CONFIG, steps=1), dropout=0.5)
    warm = run(trainer, begin).adapters
    losses = [run(trainer, warm, examples=constant, seed=s, round=r).loss for s, r in ((1, 0), (1, 1), (2, 0), (1, 0))]
    assert len(set(losses)) == 3
    assert losses[0] == losses[3]


def test_rounds_continue_the_schedule_and_the_order(tiny):
    """Two rounds of 3 steps equal one of 6 with plain SGD, which has no state; the schedule runs over all of them."""
    sgd = TrainConfig(optimizer="sgd", steps=3, batch=4, learning_rate=0.3, schedule="cosine", warmup=2)
    trainer, begin = set_up(tiny("llama"), sgd, rounds=2)
    first = run(trainer, begin)
    second = run(trainer, first.adapters, round=1)
    whole, _ = set_up(tiny("llama"), replace(sgd, steps=6), rounds=1)
    once = run(whole, begin)
    assert same(second.adapters, once.adapters)
    assert first.losses + second.losses == once.losses
    longer, _ = set_up(tiny("llama"), replace(sgd, horizon=2), rounds=5)
    assert same(run(longer, begin).adapters, first.adapters), "the horizon is the schedule's own"


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_kept_optimizer_continues_exactly_through_a_file(tiny, tmp_path, optimizer):
    kind = {"adamw": {}, "sgd": {"momentum": 0.9}}[optimizer]
    config = replace(CONFIG, steps=3, keep_optimizer=True, optimizer=optimizer, weight_decay=0.01, **kind)
    trainer, begin = set_up(tiny("qwen2"), config, rounds=2)
    first = run(trainer, begin)
    save_file(first.optimizer, tmp_path / "state.safetensors")
    second = run(trainer, first.adapters, round=1, optimizer=load_file(tmp_path / "state.safetensors"))
    whole, _ = set_up(tiny("qwen2"), replace(config, steps=6), rounds=1)
    assert same(second.adapters, run(whole, begin).adapters)
    fresh = run(trainer, first.adapters, round=1)
    assert not same(fresh.adapters, second.adapters)


def test_a_kept_optimizer_holds_what_is_not_trained_now(tiny):
    trainer, begin = set_up(tiny("llama"), replace(CONFIG, keep_optimizer=True))
    both = run(trainer, begin).optimizer
    later = run(trainer, begin, frozenset({"b"}), round=1, optimizer=both).optimizer
    assert later.keys() == both.keys()
    assert all(torch.equal(later[key], both[key]) == ('"a"' in key) for key in both if "exp_avg" in key)


def test_no_optimizer_state_unless_kept(tiny):
    trainer, begin = set_up(tiny("llama"))
    assert run(trainer, begin).optimizer == {}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_accumulation_equals_the_big_batch(tiny, dtype):
    """The loss is a mean over all tokens of the step, however it is cut; responses are of unequal length."""
    examples = [Example(e.tokens, e.tokens[: k % 3] + e.labels[k % 3 :]) for k, e in enumerate(copying(40))]
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[dtype]
    results = []
    for batch, accumulation in ((8, 1), (2, 4), (4, 2)):
        sgd = TrainConfig(optimizer="sgd", steps=3, batch=batch, accumulation=accumulation, learning_rate=0.1)
        trainer, begin = set_up(tiny("llama"), sgd, dtype=dtype)
        results.append(run(trainer, begin, examples=examples).adapters)
    for other in results[1:]:
        assert all(torch.allclose(tensor, other[key], atol=tolerance) for key, tensor in results[0].items())


def test_the_loss_is_that_of_the_whole_model(tiny):
    """Selected logits and padding change nothing: against transformers' own loss, example by example."""
    for architecture in ARCHITECTURES:
        trainer, begin = set_up(tiny(architecture), replace(CONFIG, steps=1, batch=8))
        examples = copying(8)
        done = run(trainer, begin, examples=examples)
        peft_bridge.write(trainer.model, begin)
        total = count = 0.0
        for example in examples:
            labels = torch.tensor([example.labels])
            loss = trainer.model(input_ids=torch.tensor([example.tokens]), labels=labels).loss
            total, count = total + float(loss.detach()) * 3, count + 3
        assert done.loss == pytest.approx(total / count, rel=1e-5)


def test_checkpointing_changes_nothing(tiny):
    for architecture in ("llama", "gpt2"):
        plain, begin = set_up(tiny(architecture))
        spared, _ = set_up(tiny(architecture), replace(CONFIG, checkpointing=True))
        one, two = run(plain, begin).adapters, run(spared, begin).adapters
        assert all(torch.allclose(tensor, two[key], atol=1e-6) for key, tensor in one.items())


def test_autocast_and_bfloat16_bases_learn_with_float32_factors(tiny):
    for dtype, autocast in (("float32", True), ("bfloat16", False)):
        trainer, begin = set_up(tiny("llama"), replace(CONFIG, steps=30, autocast=autocast), dtype=dtype)
        done = run(trainer, begin)
        assert sum(done.losses[-5:]) < 0.9 * sum(done.losses[:5])
        assert {tensor.dtype for _, tensor in done.adapters.items()} == {torch.float32}


def test_clipping_bounds_the_step(tiny):
    sgd = TrainConfig(optimizer="sgd", steps=1, batch=4, learning_rate=1.0, clip=0.01)
    trainer, begin = set_up(tiny("llama"), sgd)
    done = run(trainer, begin).adapters
    length = math.sqrt(sum(float((tensor - begin[key]).square().sum()) for key, tensor in done.items()))
    assert length == pytest.approx(0.01, rel=1e-3)


def test_epochs_and_factors_set_the_steps(tiny):
    trainer, begin = set_up(tiny("llama"), replace(CONFIG, epochs=0.5, batch=3))
    assert run(trainer, begin, examples=copying(20)).steps == 4
    trainer, begin = set_up(tiny("llama"))
    assert run(trainer, begin, steps_factor=2).steps == 8


def test_a_loss_that_is_not_finite_ends_the_job(tiny):
    trainer, begin = set_up(tiny("llama"))
    broken = begin.put({("model.layers.0.mlp.up_proj", "a"): torch.full((4, 32), math.inf)})
    done = run(trainer, broken)
    assert math.isnan(done.loss)
    assert done.steps == 1
    assert same(done.adapters, broken)
    wild, begin = set_up(tiny("llama"), TrainConfig(optimizer="sgd", steps=50, learning_rate=1e38, clip=None))
    done = run(wild, begin)
    assert math.isnan(done.loss)
    assert done.steps < 50


def test_a_job_without_targets_is_an_error(tiny):
    trainer, begin = set_up(tiny("llama"))
    with pytest.raises(ValueError, match="no example"):
        run(trainer, begin, examples=[Example((3, 4), (-100, -100))])


def test_a_step_without_targets_moves_nothing(tiny):
    trainer, begin = set_up(tiny("llama"), replace(CONFIG, steps=2, batch=1))
    examples = [Example((3, 4), (-100, -100)), copying(1)[0]]
    done = run(trainer, begin, examples=examples)
    assert math.isfinite(done.loss)
