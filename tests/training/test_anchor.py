"""FedProx's pull by hand, and entries that a mask holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.tiny_models import copying
from tests.training.test_trainer import CONFIG, run, set_up
from thinwire.adapters import same
from thinwire.engine.jobs import Job
from thinwire.method import Plan
from thinwire.training.anchor import Anchor


def test_three_proximal_steps_by_hand():
    """w from 1, gradient 2, rate .1, mu 4: w - .1 (2 + 4 (w - 1)) = .8, .68, .608; without the pull .8, .6, .4."""
    w = nn.Parameter(torch.tensor([1.0]))
    anchor = Anchor.of({("w", "extra"): w}, 4.0, {})
    optimizer, seen = torch.optim.SGD([w], lr=0.1), []
    for _ in range(3):
        optimizer.zero_grad()
        (2 * w).sum().backward()
        anchor.pull()
        optimizer.step()
        seen.append(float(w.detach()))
    assert seen == pytest.approx([0.8, 0.68, 0.608])


def test_the_pull_is_the_gradient_of_the_proximal_term():
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(3, 2))
    anchor, start = Anchor.of({("w", "extra"): w}, 0.7, {}), w.detach().clone()
    with torch.no_grad():
        w.add_(torch.randn(3, 2))
    (w**3).sum().backward()
    anchor.pull()
    other = w.detach().clone().requires_grad_()
    ((other**3).sum() + 0.35 * (other - start).square().sum()).backward()
    torch.testing.assert_close(w.grad, other.grad)


def test_a_strong_pull_keeps_a_client_near_its_start(tiny):
    """With the real loop; the mean loss that is told is that of the examples alone.

    The rate is small: at a large one unclipped SGD is chaotic, and rounding decides how far a client gets.
    """
    sgd = replace(CONFIG, optimizer="sgd", steps=6, learning_rate=0.02, clip=None)
    lengths = []
    for proximal in (0.0, 5.0, 25.0):
        trainer, begin = set_up(tiny("llama"), replace(sgd, proximal=proximal))
        done = run(trainer, begin)
        lengths.append(sum(float((tensor - begin[key]).square().sum()) for key, tensor in done.adapters.items()) ** 0.5)
        assert done.losses[0] == pytest.approx(3.9, abs=2.0)
    assert lengths[0] > 1.1 * lengths[1] > 1.2 * lengths[2] > 0


def test_the_first_step_knows_no_pull(tiny):
    one, begin = set_up(tiny("llama"), replace(CONFIG, steps=1))
    other, _ = set_up(tiny("llama"), replace(CONFIG, steps=1, proximal=10.0))
    assert same(run(one, begin).adapters, run(other, begin).adapters), "at the start the pull is zero"


def test_masks_hold_entries_against_the_pull_momentum_and_decay(tiny):
    config = replace(CONFIG, proximal=0.5, weight_decay=0.3, keep_optimizer=True)
    trainer, begin = set_up(tiny("gpt2"), config)
    warm = run(trainer, begin)
    masks = {key: tensor > 0 for key, tensor in warm.adapters.items() if key[1] == "b"}
    plan = Plan(warm.adapters, frozenset({"a", "b"}), masks)
    done = trainer.train([Job(plan, copying(40), 5, 1, optimizer=warm.optimizer)])[0].adapters
    for key, tensor in done.items():
        held = ~masks[key] if key in masks else torch.zeros_like(tensor, dtype=torch.bool)
        assert torch.equal(tensor[held], warm.adapters[key][held])
        assert not torch.equal(tensor, warm.adapters[key])
