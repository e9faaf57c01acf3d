"""FLoRA: the stack is exact, whatever the ranks; merged into the base; late joiners; the warm start; compaction."""

from __future__ import annotations

import pytest
import torch

from tests.laws.synthetic import MODULES, federation, first, made, rounds, seeded, start_adapters
from tests.methods.watched import product, unequal, watched
from tests.tiny_models import copying
from tests.training.test_trainer import set_up
from thinwire import peft_bridge
from thinwire.adapters import joined, same
from thinwire.engine import begin, message, receive
from thinwire.engine.jobs import Job
from thinwire.lowrank import LowRank
from thinwire.method import Client, Context
from thinwire.methods import create
from thinwire.models import merging
from thinwire.models.base import load_base
from thinwire.models.config import ModelConfig
from thinwire.settings import ConfigError
from thinwire.storage.state import start as start_of
from thinwire.training.config import TrainConfig
from thinwire.wire import unpack

EXACT = {"precision": "float32"}
RANKS = (1, 3, None, 2)
TOKENS = torch.arange(2, 26).reshape(2, 12)


def close(got, want, tolerance=1e-6):
    """Relative Frobenius distance."""
    assert float((got - want).norm()) <= tolerance * float(want.norm())


def trained_products(seen, made, name, fixed_alpha=False):
    """`sum_k p_k s_k B_k A_k` by its formula, float64."""
    module, total = start_adapters().modules[name], sum(client.examples for client in made.clients)
    terms = []
    for client in made.clients:
        own = seen.trained[client.name].modules[name]
        rank = min(client.rank or module.rank, module.rank)
        assert own.rank == rank
        alpha = module.scale * module.rank
        scale = alpha / rank if fixed_alpha else module.scale
        assert own.scale == scale, "what trains is what is stacked"
        terms.append(client.examples / total * scale * own.b.double() @ own.a.double())
    return sum(terms)


@pytest.mark.parametrize("fixed_alpha", [False, True])
def test_the_stack_is_the_sum_of_products_with_unequal_ranks(fixed_alpha):
    made = unequal(("flora", {"fixed_alpha": fixed_alpha, **EXACT}), ranks=RANKS, weights="examples")
    state, sums = first(made), {name: torch.zeros(()) for name in MODULES}
    for _ in range(2):
        seen = watched(made, state)
        state = seen.after
        for name, (_, rank, _) in MODULES.items():
            sums[name] = sums[name] + trained_products(seen, made, name, fixed_alpha)
            merged = state.server.adapters.merged[name]
            close(merged.b.double() @ merged.a.double(), sums[name])
            assert not state.server.adapters.modules[name].b.any(), "nothing but the stack is global"
            assert merged.scale == 1.0
            ranks = sum(min(own or rank, rank) for own in RANKS)
            assert merged.rank == min(state.round * ranks, merged.b.shape[0], merged.a.shape[1])


def test_every_round_and_client_starts_afresh_on_what_is_merged():
    made = unequal(("flora", {}), ranks=(2, None, None))
    state, starts = first(made), []
    for _ in range(2):
        seen = watched(made, state)
        for name, plan in seen.plans.items():
            assert not any(module.b.any() for module in plan.start.modules.values())
            assert plan.start.merged.keys() == state.server.adapters.merged.keys()
            rank = {"client-0": 2}.get(name, 4)
            module = plan.start.modules["layer.0.query"]
            assert module.a.shape == (rank, 10)
            assert float(module.a.abs().max()) <= 10**-0.5
            starts.append(module.a[:2])
        state = seen.after
    assert len({tuple(a.flatten().tolist()) for a in starts}) == 6


def test_extras_are_averaged_as_changes():
    made = federation(("flora", EXACT), 3)
    seen = watched(made, first(made))
    for name, before in start_adapters().extras.items():
        want = sum(own.extras[name] for own in seen.trained.values()) / 3
        torch.testing.assert_close(seen.after.server.adapters.extras[name], want, rtol=1e-5, atol=1e-6)
        assert not torch.equal(want, before)


def test_an_adapter_to_continue_is_what_everyone_trains_on():
    """`model.adapter`: its product counts in training and in what is evaluated, though A and B begin anew."""
    given = start_adapters()
    given = given.put({(name, "b"): seeded(3, height, rank) for name, (height, rank, _) in MODULES.items()})
    made = federation(("flora", EXACT), 2)
    state = start_of(begin(start_adapters(), made.seed, made.run, given), (client.name for client in made.clients))
    seen = watched(made, state)
    for name in MODULES:
        for plan in seen.plans.values():
            close(product(plan.start, name), product(given, name))
        want = product(given, name) + sum(
            own.modules[name].scale * own.modules[name].b.double() @ own.modules[name].a.double() / 2
            for own in seen.trained.values()
        )
        close(product(seen.after.server.adapters, name), want)


def test_a_late_joiner_holds_what_the_others_hold():
    made = unequal(("flora", {}), ranks=RANKS)
    state, _ = rounds(made, 12)
    server, late = state.server, Client("late", 9, 5, rank=1)
    blobs = message(made.method, server, late, None, Context(12, made.seed))
    held, version = receive(made.method, late, (server.start, None), blobs, server.start, server.run)
    assert version == 12
    assert same(held, server.adapters)


@pytest.mark.parametrize("fields", [{}, {"warm_start": True}])
def test_what_a_late_joiner_is_sent_stops_growing(fields):
    made, state, sizes = federation(("flora", fields), 3), None, []
    state = first(made)
    for _ in range(30):
        state, _ = rounds(made, 1, state)
        sizes.append(len(state.server.state))
    assert sizes[0] < sizes[1], "it grows while the stack's rank does"
    assert max(sizes[10:]) <= 1.05 * sizes[10]
    for name, pair in state.server.adapters.merged.items():
        assert pair.rank <= min(MODULES[name][0], MODULES[name][2])
    assert sum(map(len, state.server.broadcasts.values())) <= 3 * max(sizes)


def test_compaction_keeps_the_sum():
    total, want = LowRank(torch.zeros(6, 0), torch.zeros(0, 4)), torch.zeros(6, 4).double()
    for k in range(50):
        more = LowRank(seeded(k, 6, 3), seeded(100 + k, 3, 4))
        total, want = joined(total, more), want + more.b.double() @ more.a.double()
        assert total.rank <= 4
        torch.testing.assert_close(total.b.double() @ total.a.double(), want, rtol=1e-5, atol=1e-5)
    wide = joined(LowRank(seeded(1, 3, 3), seeded(2, 3, 9)), LowRank(seeded(3, 3, 1), seeded(4, 1, 9)))
    assert torch.equal(wide.b, torch.eye(3))


@pytest.mark.parametrize("ranks", [(None, None, None), RANKS])
def test_a_warm_start_loses_nothing_of_the_mean_product(ranks):
    """What goes on and what is merged are together the mean of all that clients held, lower ranks included."""
    made = unequal(("flora", {"warm_start": True, **EXACT}), ranks=ranks, weights="examples")
    state, total = first(made), sum(client.examples for client in made.clients)
    for number in range(4):
        seen = watched(made, state)
        for name, module in state.server.adapters.modules.items():
            for client in made.clients:
                start = seen.plans[client.name].start
                close(product(start, name), product(state.server.adapters, name), 1e-5 if number else 0)
                assert start.modules[name].rank == min(client.rank or module.rank, module.rank)
            want = sum(c.examples / total * product(seen.trained[c.name], name) for c in made.clients)
            close(product(seen.after.server.adapters, name), want, 3e-6)
        state = seen.after


def test_a_warm_start_keeps_the_leading_components():
    made = federation(("flora", {"warm_start": True, **EXACT}), 3)
    seen = watched(made, first(made))
    for name, (_, rank, _) in MODULES.items():
        mean = sum(product(own, name) for own in seen.trained.values()) / 3
        u, s, vt = torch.linalg.svd(mean, full_matrices=False)
        after = seen.after.server.adapters.modules[name]
        close(after.scale * after.b.double() @ after.a.double(), (u[:, :rank] * s[:rank]) @ vt[:rank], 1e-5)


def test_settings_that_exclude_each_other():
    with pytest.raises(ConfigError, match="fixed_alpha = True: not with warm_start"):
        create("flora", {"warm_start": True, "fixed_alpha": True})


@torch.no_grad()
def logits(network):
    return network(input_ids=TOKENS).logits.float()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_merged_model_is_the_dense_sum(tiny, architecture):
    """Two rounds with the real loop: the model with what was merged has the logits of the base plus all products."""
    trainer, begun = set_up(tiny(architecture), TrainConfig(steps=3, batch=4, learning_rate=2e-2))
    method = made("flora", EXACT)
    dense = load_base(ModelConfig(name=str(tiny(architecture))), "cpu").model
    before, adapters = logits(dense), begun
    for number in range(2):
        ctx, uploads = Context(number, 1), []
        for client in (Client("one", 0, 1, rank=4), Client("two", 1, 1, rank=2)):
            plan = method.plan(adapters, client, {}, ctx)
            done = trainer.train([Job(plan, copying(30, client.index), client.index, number)])[0].adapters
            uploads.append((0.5, done))
        change = {}
        for name, module in adapters.modules.items():
            parts = [(p, {"a": done.modules[name].a, "b": done.modules[name].b}) for p, done in uploads]
            found = method.rule(module, parts, ctx)
            change |= {(name, part): tensor for part, tensor in found.items()}
            weight = dense.get_submodule(name).weight
            pairs = [(p, done.modules[name]) for p, done in uploads]
            total = sum(p * pair.scale * pair.b @ pair.a for p, pair in pairs)
            weight.data += total.T if architecture == "gpt2" else total
        adapters = adapters.add(change)
    peft_bridge.write(trainer.model, adapters)
    torch.testing.assert_close(logits(peft_bridge.network(trainer.model)), logits(dense), rtol=1e-4, atol=1e-4)
    assert float((logits(dense) - before).abs().max()) > 0.05
    with peft_bridge.disabled(trainer.model):
        assert torch.equal(logits(peft_bridge.network(trainer.model)), before), "and it can be taken out again"


def test_roundings_of_a_bfloat16_base_do_not_add_up():
    """A hundred steps, each below the base's resolution, arrive as their sum, rounded once."""
    module = torch.nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)
    torch.nn.init.ones_(module.weight)
    step = LowRank(torch.full((4, 1), 1e-3), torch.ones(1, 4))
    sums = merged = None
    for count in range(1, 101):
        merged = step if merged is None else joined(merged, step)
        merging.put({"module": module}, {"module": merged})
        sums = torch.full((4, 4), 1 + 1e-3 * count).bfloat16()
        assert torch.allclose(module.weight.float(), sums.float(), rtol=2**-8)
    assert float(module.weight.detach()[0, 0]) == pytest.approx(1.1, rel=2**-8)
    merging.put({"module": module}, {})
    assert torch.equal(module.weight, torch.ones(4, 4, dtype=torch.bfloat16))


def test_a_quantised_base_is_refused():
    module = torch.nn.Linear(4, 4, bias=False)
    module.weight = torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ConfigError, match="one that is not quantised"):
        merging.put({"module": module}, {"module": LowRank(torch.ones(4, 1), torch.ones(1, 4))})


def test_a_broadcast_is_the_stack_and_a_state_is_whole():
    made = federation(("flora", {}), 2)
    state, _ = rounds(made, 3)
    stack = unpack(state.server.broadcasts[3]).leaves
    assert {part for _, part in stack} == {"merged_a", "merged_b", "extra"}
    assert stack["layer.0.query", "merged_a"].shape == (8, 10)
    whole = unpack(state.server.state).leaves
    assert {name for name, part in whole if part == "merged_a"} == set(MODULES)
