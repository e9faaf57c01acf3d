"""Scores: exact match is greedy decoding's, losses are the model's, padding and batch size change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_models import ARCHITECTURES, EOS, copying
from thinwire import peft_bridge
from thinwire.adapters import same
from thinwire.data import Example
from thinwire.engine.jobs import Job
from thinwire.evaluation import Outcomes, evaluate, join, macro_f1, predict
from thinwire.method import Plan
from thinwire.models.base import load_base
from thinwire.models.config import LoraConfig, ModelConfig
from thinwire.training.config import TrainConfig
from thinwire.training.trainer import Trainer


def attached(folder):
    base = load_base(ModelConfig(name=str(folder)), "cpu")
    return base, peft_bridge.attach(base, LoraConfig(rank=8))


@torch.no_grad()
def decoded(network, example: Example) -> bool:
    """Whether real greedy decoding of the prompt writes the response and ends."""
    prompt = [token for token, label in zip(example.tokens, example.labels, strict=True) if label == -100]
    response = list(example.tokens[len(prompt) :])
    inputs = torch.tensor([prompt])
    text = network.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=len(response),
        do_sample=False,
        eos_token_id=EOS,
        pad_token_id=0,
    )
    return text[0, len(prompt) :].tolist() == response


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_exact_match_is_that_of_greedy_decoding(tiny, architecture):
    base, model = attached(tiny(architecture))
    config = TrainConfig(steps=60, batch=8, learning_rate=1e-2)
    begin = peft_bridge.start(model, 0)
    job = Job(Plan(begin, frozenset({"a", "b"})), copying(24), 1, 0)
    adapters = Trainer(base, model, config, 1).train([job])[0].adapters
    examples = copying(12) + copying(12, seed=3)
    scores = evaluate(base, model, adapters, examples, batch=5)
    right = [decoded(peft_bridge.network(model), example) for example in examples]
    assert 0 < sum(right) < len(right), "the test must see both outcomes"
    assert scores.exact == pytest.approx(sum(right) / len(right))
    one_by_one = [evaluate(base, model, adapters, [example]).exact == 1.0 for example in examples]
    assert one_by_one == right


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_do_not_depend_on_the_batch_and_are_the_models(tiny, architecture):
    base, model = attached(tiny(architecture))
    examples = copying(13)
    adapters = peft_bridge.start(model, 0)
    scores = [evaluate(base, model, adapters, examples, batch=size) for size in (1, 4, 32)]
    assert scores[0].loss == pytest.approx(scores[1].loss, rel=1e-5) == pytest.approx(scores[2].loss, rel=1e-5)
    assert len({(s.exact, s.accuracy, s.targets, s.examples) for s in scores}) == 1
    assert (scores[0].targets, scores[0].examples) == (39, 13)
    with torch.no_grad():
        losses = [model(torch.tensor([e.tokens]), labels=torch.tensor([e.labels])).loss for e in examples]
    assert scores[0].loss == pytest.approx(float(sum(losses)) / 13, rel=1e-5)


def test_none_is_the_base_without_its_adapter(tiny):
    base, model = attached(tiny("qwen3"))
    begin = peft_bridge.start(model, 0)
    plain = evaluate(base, model, begin, copying(9))
    loud = begin.add({key: torch.ones_like(tensor) for key, tensor in begin.items()})
    assert evaluate(base, model, loud, copying(9)).loss != pytest.approx(plain.loss, rel=1e-2)
    assert evaluate(base, model, None, copying(9)).loss == pytest.approx(plain.loss, rel=1e-6)
    assert same(peft_bridge.read(model), loud)
    assert evaluate(base, model, loud, copying(9)) == evaluate(base, model, loud, copying(9))


def test_training_goes_on_after_an_evaluation_of_the_base(tiny):
    base, model = attached(tiny("llama"))
    begin = peft_bridge.start(model, 0)
    trainer = Trainer(base, model, TrainConfig(steps=2), 1)
    job = Job(Plan(begin, frozenset({"b"})), copying(8), 1, 0)
    before = trainer.train([job])[0]
    evaluate(base, model, None, copying(4))
    assert same(trainer.train([job])[0].adapters, before.adapters)


def test_a_broken_adapter_has_no_loss_and_no_examples_are_an_error(tiny):
    base, model = attached(tiny("llama"))
    begin = peft_bridge.start(model, 0)
    broken = begin.put({key: torch.full_like(tensor, torch.nan) for key, tensor in begin.items()})
    scores = evaluate(base, model, broken, copying(4))
    assert scores.loss != scores.loss
    assert scores.exact == 0
    with pytest.raises(ValueError, match="no example has a response"):
        evaluate(base, model, begin, [Example((3, 4), (-100, -100))])


def test_outcomes_are_in_the_examples_order_whatever_is_batched_together(tiny):
    base, model = attached(tiny("llama"))
    examples = copying(13, seed=5)
    whole = predict(base, model, None, examples, batch=4)
    for index, example in enumerate(examples):
        alone = predict(base, model, None, [example])
        own = whole.rows == index
        assert whole.truth[own].tolist() == alone.truth.tolist() == [*example.labels[-3:]]
        assert whole.nats[own] == pytest.approx(alone.nats, rel=1e-4)


def outcomes(truth, guess, rows=None):
    rows = range(len(truth)) if rows is None else rows
    return Outcomes(*(np.array(list(column)) for column in (rows, truth, guess)), np.ones(len(truth)), True)


def test_macro_f1_by_hand():
    # class 0: tp 2, fp 1, fn 0: 4/5; class 1: tp 1, fp 1, fn 1: 2/4; class 5: never predicted: 0; class 2: absent
    scores = outcomes([0, 0, 1, 1, 5], [0, 0, 0, 1, 1]).scores()
    assert scores.macro_f1 == pytest.approx((4 / 5 + 2 / 4 + 0) / 3)
    assert scores.accuracy == pytest.approx(3 / 5) == scores.exact
    assert scores.loss == 1


def test_an_example_is_exact_if_all_its_targets_are():
    scores = outcomes([0, 1, 1], [0, 1, 0], rows=[0, 0, 1]).scores()
    assert (scores.accuracy, scores.exact, scores.examples) == (pytest.approx(2 / 3), 0.5, 2)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40))
def test_macro_f1_is_the_oracles(pairs):
    def f1(label):
        tp = sum(t == g == label for t, g in pairs)
        wrong = sum((t == label) != (g == label) for t, g in pairs)
        return 2 * tp / (2 * tp + wrong)

    present = {label for pair in pairs for label in pair}
    truth, guess = zip(*pairs, strict=True)
    assert macro_f1(np.array(truth), np.array(guess)) == pytest.approx(sum(map(f1, present)) / len(present))


@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_outcomes_by_group_are_those_of_its_examples(rows):
    groups = [group for group, _, _ in rows]
    whole = outcomes([truth for _, truth, _ in rows], [guess for _, _, guess in rows])
    parts = whole.by(groups)
    assert set(parts) == {group for group in groups if group is not None}
    for name, part in parts.items():
        own = [index for index, group in enumerate(groups) if group == name]
        assert part.rows.tolist() == own
        assert part.guess.tolist() == [rows[index][2] for index in own]
    assert join([whole, whole]).scores().examples == 2 * len(rows)
