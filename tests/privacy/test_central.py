"""Noise on the server's sum: the clipping bound over every method, the noise's size, and what may not change a bit."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.laws.synthetic import bits, distance, everything, federation, label, rounds, start_adapters
from tests.privacy.synthetic import SUMMED, Moment, difference, length, moment, on_sum, with_noise
from thinwire.adapters import Adapters
from thinwire.engine import Upload, aggregate, begin
from thinwire.lowrank import LowRank
from thinwire.method import Context
from thinwire.methods import create
from thinwire.payload import Payload, dense
from thinwire.randomness import derive, uniform
from thinwire.storage import checkpoint
from thinwire.wire import pack

CASES = pytest.mark.parametrize("case", SUMMED, ids=label)
CLIP = 0.05
ROUNDING = 1 + 1e-5

at = cache(lambda index, number: moment(SUMMED[index], number))


@st.composite
def anything(draw: st.DrawFn) -> tuple[int, float, str]:
    """A recipe of an upload: a seed, a size, and which of its entries are not 0."""
    exponent = draw(st.floats(-12, 36))
    return draw(st.integers(0, 2**32)), 10.0**exponent, draw(st.sampled_from(["all", "one", "one module", "nothing"]))


def made_up(point: Moment, seed: int, size: float, kind: str) -> Upload:
    tensors = {key: (uniform(derive(seed, *key), *shape) - 0.5) * 2 * size for key, shape in point.shapes.items()}
    chosen = list(tensors)[seed % len(tensors)]
    for key, tensor in tensors.items():
        if kind == "nothing" or (kind != "all" and key[0] != chosen[0]):
            tensor.zero_()
        elif kind == "one" and key == chosen:
            tensor.view(-1)[1:] = 0
    return point.upload(tensors, "client-1")


@CASES
@settings(max_examples=6, deadline=None)
@given(other=anything(), number=st.integers(0, 2))
def test_one_client_moves_the_sum_by_no_more_than_the_clip(case, other, number):
    """Added or removed: c. Exchanged for any other: 2 c. Whatever was sent, and whatever the method makes of it."""
    point = at(SUMMED.index(case), number)
    first, _, last = point.uploads
    without = point.sum([first, last], on_sum(CLIP))
    with_other = point.sum([first, made_up(point, *other), last], on_sum(CLIP))
    assert difference(with_other, without) <= CLIP * ROUNDING
    assert difference(with_other, point.sum(point.uploads, on_sum(CLIP))) <= 2 * CLIP * ROUNDING


@CASES
def test_the_clip_is_reached_over_the_whole_model(case):
    """All modules and extras share one norm: a large upload adds just c, in more than one of them."""
    point = at(SUMMED.index(case), 2)
    alone = point.sum(point.uploads[1:2], on_sum(1e-4))
    assert length(alone) == pytest.approx(1e-4, rel=1e-5)
    assert sum(bool(tensor.any()) for tensor in alone.values()) > 1


@CASES
def test_small_uploads_are_summed_as_they_are(case):
    point = at(SUMMED.index(case), 2)
    each = [point.sum([upload], on_sum(1e6)) for upload in point.uploads]
    total = point.sum(point.uploads, on_sum(1e6))
    want = {key: sum(one[key].double() for one in each) for key in total}
    assert difference(total, want) <= 1e-6 * length(want)


@CASES
def test_one_client_without_noise_is_the_method_itself(case):
    """Its term is what the server makes of its upload alone."""
    name, fields = case[0], {**case[1], "precision": "float32"}
    plain, _ = rounds(federation((name, fields), 1), 2)
    free, _ = rounds(with_noise(federation((name, fields), 1), "sum", 1e9, 0.0), 2)
    assert distance(free.server.adapters, plain.server.adapters) < 1e-5


@pytest.mark.parametrize("name", ["fedit", "ffa-lora", "fed-dare", "flasc", "fedsrd-e"])
def test_linear_methods_are_their_mean_where_nothing_is_clipped(name):
    fields = {"precision": "float32"} | ({"solve": "pinv", "error_feedback": 0.0} if name == "fedsrd-e" else {})
    plain, _ = rounds(federation((name, fields), 3), 2)
    free, _ = rounds(with_noise(federation((name, fields), 3), "sum", 1e9, 0.0), 2)
    assert distance(free.server.adapters, plain.server.adapters) < 1e-4


def test_what_is_clipped_is_the_term_not_the_upload():
    """FedSRD-e multiplies dB by what it solves with: an upload within the clip may have a term beyond it."""
    point = at(SUMMED.index(("fedsrd-e-official", {})), 2)
    for method in (create("fedsrd-e-official", {}), create("fedsrd-official", {})):
        there = replace(point, method=method)
        modules, rule = there.server.adapters.modules, method.rule
        own = {name: rule.term(modules[name], parts, there.ctx) for name, parts in by_module(there)}
        extras = {key: tensor for key, tensor in decoded(there).items() if key[1] == "extra"}
        whole = {(name, part): t for name, parts in own.items() for part, t in parts.items()} | extras
        got = there.sum(there.uploads[:1], on_sum(CLIP))
        share = min(1.0, CLIP / length(whole))
        assert share < 1
        for key, tensor in whole.items():
            torch.testing.assert_close(got[key], (share * tensor.double()).float(), rtol=1e-5, atol=1e-12)


def decoded(point: Moment):
    from thinwire.compress import decode
    from thinwire.wire import unpack

    return decode(unpack(point.uploads[0].blob).leaves)


def by_module(point: Moment):
    change = decoded(point)
    for name in point.server.adapters.modules:
        yield name, {part: tensor for (owner, part), tensor in change.items() if owner == name}


LARGE = {"q": (300, 8, 200), "up": (500, 8, 100)}


def large_server(seed: int = 3):
    modules = {name: LowRank(torch.zeros(h, r), uniform(derive(seed, name), r, w)) for name, (h, r, w) in LARGE.items()}
    return begin(Adapters(modules, {"head": torch.zeros(40, 50)}), seed=7, run=7)


def silent(server, client: str) -> Upload:
    leaves = {key: dense(torch.zeros_like(tensor)) for key, tensor in server.adapters.items()}
    return Upload(client, 1.0, pack(Payload("change", server.version, server.run, leaves)))


@pytest.mark.parametrize("clients", [0, 1, 4])
def test_the_noise_has_its_deviation_in_every_tensor_through_the_real_server(clients):
    """Clients that send zeros, or none at all: what the adapters move by is the noise, z c / cohort in every entry."""
    server, method = large_server(), create("fedit", values={"precision": "float32"})
    noised = on_sum(clip=0.5, multiplier=3.0, cohort=10)
    after, outcome = aggregate(
        method, server, [silent(server, f"c{k}") for k in range(clients)], Context(0, 7), noised=noised
    )
    assert len(outcome.accepted) == clients
    moved = {key: tensor.double() - server.adapters[key].double() for key, tensor in after.adapters.items()}
    everything_moved = torch.cat([tensor.flatten() for tensor in moved.values()])
    want = 3.0 * 0.5 / 10
    for tensor in (*moved.values(), everything_moved):
        wide = 5 / math.sqrt(2 * tensor.numel())
        assert float(tensor.std()) == pytest.approx(want, rel=wide)
        assert abs(float(tensor.mean())) < 5 * want / math.sqrt(tensor.numel())
    assert len({bits(tensor[:1]) for tensor in moved.values()}) == len(moved), "every tensor has noise of its own"


def test_rounds_and_seeds_have_noise_of_their_own():
    server, method = large_server(), create("fedit", values={"precision": "float32"})
    seen = set()
    for number, seed in ((0, 11), (1, 11), (0, 12)):
        noised = on_sum(1.0, 1.0)
        noised = replace(noised, noise=replace(noised.noise, seed=seed))
        after, _ = aggregate(method, server, [], Context(number, 7), noised=noised)
        seen.add(float(after.adapters.extras["head"][0, 0]))
    assert len(seen) == 3


def test_noise_is_added_before_the_broadcast_is_compressed():
    """The broadcast is a function of the noised sum: FedSRD-e's sparse one holds large entries of the noise."""
    server = large_server()
    after, outcome = aggregate(create("fedsrd-e"), server, [], Context(0, 7), noised=on_sum(1.0, 1.0))
    assert 0.15 < outcome.density < 0.25
    assert after.residual, "what the mask left out of the noised sum is owed"
    moved = after.adapters.modules["q"].b
    kept = moved != 0
    assert float(moved[kept].abs().mean()) > float(after.residual["q", "b"][~kept].abs().mean())


@CASES
def test_no_bit_depends_on_arrival_weights_or_threads(case):
    point = at(SUMMED.index(case), 2)
    noised = on_sum(CLIP, 1.0, 3)
    want, _ = aggregate(point.method, point.server, point.uploads, point.ctx, noised=noised)
    before = torch.get_num_threads()
    for threads, uploads in ((1, point.uploads[::-1]), (3, point.uploads)):
        torch.set_num_threads(threads)
        heavier = [replace(upload, weight=1.0 + place) for place, upload in enumerate(uploads)]
        got, _ = aggregate(point.method, point.server, heavier, point.ctx, noised=noised)
        assert bits(got) == bits(want)
    torch.set_num_threads(before)


@pytest.mark.parametrize("place", ["sum", "upload"])
@CASES
def test_a_resumed_run_is_the_straight_run(case, place, tmp_path):
    busy = {"clients_per_round": 3, "sampling": "poisson", "drop": 0.3, "first_round": {"client-4": 3}}
    federated = with_noise(federation(case, 5, **busy), place)
    straight, lines = rounds(federated, 4)
    half, early = rounds(federated, 2)
    checkpoint.save(half, tmp_path)
    loaded, problems = checkpoint.load(tmp_path, start_adapters(), federated.seed, federated.run)
    assert problems == []
    resumed, late = rounds(federated, 2, loaded)
    assert everything(resumed) == everything(straight)
    assert early + late == lines


def test_a_term_that_is_not_finite_counts_as_nothing():
    """Finite in the upload, infinite once projected: left out, and the others' sum is what it would be."""
    point = at(SUMMED.index(("fedsrd-e", {})), 2)
    huge = point.upload({key: torch.full(shape, 3e38) for key, shape in point.shapes.items()}, "client-1")
    first, _, last = point.uploads
    got = point.sum([first, huge, last], on_sum(CLIP))
    assert all(tensor.isfinite().all() for tensor in got.values())
    assert difference(got, point.sum([first, last], on_sum(CLIP))) <= CLIP * ROUNDING


def test_memory_of_one_upload_a_thread(monkeypatch):
    from thinwire.engine import server as engine

    alive, most = [0], [0]
    real = engine._uploads

    def watched(*arguments):
        def counted(item):
            alive[0] += 1
            most[0] = max(most[0], alive[0])
            weakref.finalize(next(iter(item[1].values())), lambda: alive.__setitem__(0, alive[0] - 1))
            return item

        return real(*arguments).map(counted)

    monkeypatch.setattr(engine, "_uploads", watched)
    for name in ("fedit", "fedsrd"):
        for clients in (4, 12):
            point = moment((name, {}), 1, clients)
            point.sum(point.uploads, on_sum(CLIP))
    assert most[0] <= 3
