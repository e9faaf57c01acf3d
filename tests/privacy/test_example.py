"""Example-level privacy: per-example clipping against an oracle, the noise's size, the draw, and real training."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.tiny_models import copying
from tests.training.test_trainer import run, set_up
from thinwire.adapters import same
from thinwire.data import Example
from thinwire.privacy.noise import Noise
from thinwire.randomness import uniform
from thinwire.settings import ConfigError
from thinwire.training.batches import collate
from thinwire.training.config import TrainConfig
from thinwire.training.forward import losses_at
from thinwire.training.private import Draw

QUIET = Noise("gradient", 1.0, 0.0, 5)
SGD = TrainConfig(steps=1, batch=4, optimizer="sgd", learning_rate=0.5, clip=None)
HELD = [Example((index, 1), (index, 1)) for index in range(6)]


def plain(rows: torch.Tensor) -> tuple[dict, dict]:
    """A linear model of two parameters: example k has the gradient `rows[k]`."""
    live = {("w", "a"): nn.Parameter(torch.zeros(2)), ("w", "b"): nn.Parameter(torch.zeros(1))}

    def loss_of(example: Example, seed: int) -> torch.Tensor:
        row = rows[example.tokens[0]]
        return row[:2] @ live["w", "a"] + row[2] * live["w", "b"][0]

    return live, loss_of


def summed(rows: torch.Tensor, examples, noise: Noise = QUIET, expected: int = 1) -> torch.Tensor:
    live, loss_of = plain(rows)
    Draw(noise, (1, 2, 3), expected, 6).gradients(live, dict(enumerate(examples)), loss_of)
    return torch.cat([value.grad for value in live.values()])


def test_by_hand():
    """(3, 0, 4) has norm 5 and becomes (.6, 0, .8); (.1, .2, 0) stays; both parameters share one norm."""
    rows = torch.tensor([[3.0, 0.0, 4.0], [0.1, 0.2, 0.0]])
    got = summed(rows, HELD[:2], expected=4)
    torch.testing.assert_close(got, torch.tensor([0.7, 0.2, 0.8]) / 4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.floats(-8, 30), st.floats(-8, 30))
def test_an_example_moves_the_sum_by_the_clip_at_most(seed, exponent, other):
    rows = (uniform(seed, 6, 3) - 0.5) * 10.0**exponent
    changed = rows.clone()
    changed[2] = (uniform(seed + 1, 3) - 0.5) * 10.0**other
    got, without, exchanged = (
        summed(rows, HELD),
        summed(rows, HELD[:2] + HELD[3:]),
        summed(changed, HELD),
    )
    assert float((got - without).double().norm()) <= 1 + 1e-5
    assert float((got - exchanged).double().norm()) <= 2 + 1e-5


def test_what_is_not_finite_counts_as_nothing():
    rows = torch.tensor([[float("nan"), 0.0, 0.0], [0.1, 0.2, 0.0]])
    torch.testing.assert_close(summed(rows, HELD[:2]), torch.tensor([0.1, 0.2, 0.0]))


def test_the_noise_has_its_deviation_even_without_an_example():
    live = {("w", "a"): nn.Parameter(torch.zeros(200, 300)), ("w", "extra"): nn.Parameter(torch.zeros(5000))}
    seen = []
    for names in ((1, 0, 0), (1, 0, 1), (1, 1, 0), (2, 0, 0)):
        draw = Draw(Noise("gradient", 0.5, 3.0, 5), names, 10, 100)
        loss = draw.gradients(live, {}, lambda example, seed: torch.zeros(()))
        assert loss == 0
        for value in live.values():
            assert float(value.grad.std()) == pytest.approx(3.0 * 0.5 / 10, rel=5 / math.sqrt(2 * value.numel()))
            seen.append(float(value.grad.flatten()[0]))
    assert len(set(seen)) == 8


def test_examples_are_drawn_each_by_itself():
    draws = [Draw(QUIET, (1, 0, step), 2, 6).places for step in range(3000)]
    assert draws[0] == Draw(QUIET, (1, 0, 0), 2, 6).places
    sizes = torch.tensor([float(len(drawn)) for drawn in draws])
    assert float(sizes.mean()) == pytest.approx(2, abs=5 * math.sqrt(6 * 2 / 9 / 3000))
    assert float(sizes.var()) == pytest.approx(6 * 2 / 9, rel=0.15)
    assert 0 in sizes
    assert 5 in sizes
    for index in range(6):
        assert sum(index in drawn for drawn in draws) / 3000 == pytest.approx(1 / 3, abs=0.05)
    assert all(drawn == sorted(drawn) for drawn in draws)
    assert Draw(QUIET, (1, 0, 0), 6, 6).places == list(range(6))


def test_a_real_step_is_the_sum_of_clipped_gradients(tiny):
    """One SGD step of the trainer against gradients that plain autograd gives, example by example."""
    trainer, begin = set_up(tiny("llama"), SGD, extras=("norm",))
    trainer.noise = None
    begin = run(trainer, begin, examples=copying(40)).adapters  # b is no longer zero
    examples, clip = copying(6), 0.3
    trainer.noise = Noise("gradient", clip, 0.0, 5)
    drawn = [examples[place] for place in Draw(trainer.noise, (5, 0, 0), 4, 6).places]
    assert 1 < len(drawn) < 6
    got = run(trainer, begin, examples=examples).adapters

    from thinwire import peft_bridge

    peft_bridge.write(trainer.model, begin)
    network, live = peft_bridge.network(trainer.model).train(), peft_bridge.parameters(trainer.model)
    total = {key: torch.zeros_like(value) for key, value in live.items()}
    clipped = 0
    for example in drawn:
        network.zero_grad()
        losses_at(network, collate([example])).mean().backward()
        norm = torch.sqrt(sum(value.grad.square().sum() for value in live.values()))
        clipped += bool(norm > clip)
        for key, value in live.items():
            total[key] += value.grad * min(1.0, clip / float(norm))
    assert clipped
    for key, gradient in total.items():
        want = begin[key] - 0.5 * (gradient / 4).reshape(begin[key].shape)
        torch.testing.assert_close(got[key], want, rtol=1e-5, atol=1e-6)


TRAIN_MODE = {
    "no module that draws": {},
    "dropout of the adapter": {"dropout": 0.5},
    "dropout of the base": {"base": 0.4},
    "dropout of both": {"dropout": 0.5, "base": 0.4},
    "norms trained in full": {"dropout": 0.3, "extras": ("norm",)},
    "a head trained in full": {"base": 0.3, "extras": ("lm_head",)},
}


@pytest.mark.parametrize("kind", TRAIN_MODE)
@pytest.mark.parametrize("augmented", [False, True])
def test_one_record_moves_a_step_s_sum_by_the_clip_at_most(tiny, kind, augmented, monkeypatch):
    """Whatever draws in training mode: one record less, or another in its place, leaves the others' gradients alone."""
    from thinwire.training import trainer as module

    if augmented:  # changes the text by its seed, as pictures are
        shift = lambda row, seed: replace(row, tokens=tuple(2 + (token + seed) % 40 for token in row.tokens))  # noqa: E731
        monkeypatch.setattr(module, "varied", lambda rows, kinds, seed: [shift(row, seed) for row in rows])
    given = dict(TRAIN_MODE[kind])
    base = given.pop("base", 0.0)
    config = replace(SGD, learning_rate=1.0, batch=8)
    trainer, begin = set_up(tiny("gpt2" if base and not given.get("extras") else "llama"), config, **given)
    network = module.peft_bridge.network(trainer.model)
    if base:
        for layer in network.modules():
            if hasattr(layer, "attention_dropout"):
                layer.attention_dropout = base
            if isinstance(layer, nn.Dropout) and "lora" not in type(layer).__module__ and not layer.p:
                layer.p = base
    trainer.noise = None
    begin = run(trainer, begin, examples=copying(40)).adapters  # b is no longer zero
    clip = 0.01
    trainer.noise = Noise("gradient", clip, 0.0, 5)
    examples = copying(8)
    empty = Example(examples[3].tokens, (-100,) * len(examples[3].tokens))  # its place stays, nothing is learned of it
    other = copying(40)[33]

    def end(third: Example):
        return run(trainer, begin, examples=[*examples[:3], third, *examples[4:]]).adapters

    whole, without, exchanged = end(examples[3]), end(empty), end(other)

    def apart(one, two):
        return math.sqrt(sum(float((one[key] - two[key]).double().square().sum()) for key in one)) * 8

    assert 0.5 * clip < apart(dict(whole.items()), dict(without.items())) <= clip * (1 + 1e-3)
    assert apart(dict(whole.items()), dict(exchanged.items())) <= 2 * clip * (1 + 1e-3)


def test_dropout_is_drawn_by_the_secret_the_step_and_the_place(tiny):
    seeds = {
        Draw(Noise("gradient", 1.0, 0.0, secret), (5, round_, step), 4, 6).seed(place, purpose)
        for secret in (1, 2) for round_ in (0, 1) for step in (0, 1) for place in (0, 1)
        for purpose in ("dropout", "augment")
    }  # fmt: skip
    assert len(seeds) == 32


class Keeps(nn.Module):
    """Adds the mean of what it saw before, as running statistics do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += float(x.mean())
        return x + 0 * self.seen


class Draws(nn.Module):
    """Scales by a draw from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.own = torch.Generator().manual_seed(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(torch.rand((), generator=self.own))


@pytest.mark.parametrize(("layer", "words"), [(Keeps, r"\(Keeps\) keeps something"), (Draws, "generator of its own")])
def test_a_module_that_ties_examples_to_one_another_is_refused(tiny, layer, words):
    trainer, _ = set_up(tiny("llama"), SGD)
    network = trainer.model.get_base_model()
    network.model.norm = nn.Sequential(network.model.norm, layer())
    with pytest.raises(ConfigError, match=rf"privacy.level = 'example': .*{words}"):
        trainer.check_apart(copying(4))
    if layer is Keeps:
        assert float(network.model.norm[1].seen) == 0, "the trial leaves nothing behind"


@pytest.mark.parametrize(("norm", "extras"), [("batch", ("all-norm",)), ("batch", ()), ("group", ("all-norm",))])
def test_batch_normalisation_that_is_trained_is_refused(norm, extras):
    """Its running statistics are of all examples, and travel without noise; the base's own never change."""
    from tests.models.test_resnet import TEN, pictures
    from thinwire import peft_bridge
    from thinwire.models.base import load_base
    from thinwire.models.config import LoraConfig, ModelConfig
    from thinwire.models.heads import Head
    from thinwire.training.trainer import Trainer

    base = load_base(ModelConfig(name="resnet8", width=8, norm=norm), "cpu", Head("image", TEN, 0))
    model = peft_bridge.attach(base, LoraConfig(rank=2, targets=("conv1",), extras=extras))
    trainer = Trainer(base, model, SGD, 1, QUIET)
    if norm == "batch" and extras:
        with pytest.raises(ConfigError, match=r"BatchNorm2d\) keeps something.*model.norm = group"):
            trainer.check_apart(pictures(4))
    else:
        trainer.check_apart(pictures(4))


def test_training_with_noise_is_repeatable_and_differs_by_seed(tiny):
    config = replace(SGD, steps=3, optimizer="adamw", learning_rate=1e-2)
    trainer, begin = set_up(tiny("llama"), config)
    runs = []
    for seed in (5, 5, 6):
        trainer.noise = Noise("gradient", 0.5, 1.0, seed)
        runs.append(run(trainer, begin))
    assert same(runs[0].adapters, runs[1].adapters)
    assert runs[0].losses == runs[1].losses
    assert not same(runs[0].adapters, runs[2].adapters)
    assert runs[0].steps == 3
    assert math.isfinite(runs[0].loss)


def test_private_training_still_learns(tiny):
    config = replace(SGD, steps=30, batch=12, optimizer="adamw", learning_rate=2e-2)
    trainer, begin = set_up(tiny("llama"), config, rounds=1)
    trainer.noise = Noise("gradient", 1.0, 0.3, 5)
    done = run(trainer, begin)
    assert sum(done.losses[-8:]) < 0.9 * sum(done.losses[:8])


def test_what_may_not_move_does_not(tiny):
    trainer, begin = set_up(tiny("llama"), replace(SGD, steps=2))
    trainer.noise = Noise("gradient", 1.0, 1.0, 5)
    done = run(trainer, begin, frozenset({"b"})).adapters
    moved = {key[1] for key, tensor in done.items() if not torch.equal(tensor, begin[key])}
    assert moved == {"b"}
