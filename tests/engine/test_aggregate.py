"""The server's aggregation of a round: same bits on any number of threads, in any order, from files, as a stream."""

import mmap
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from thinwire.adapters import Adapters, same
from thinwire.engine import Server, Upload, aggregate, begin
from thinwire.engine.server import _changes
from thinwire.engine.workers import submit, workers
from thinwire.lowrank import LowRank
from thinwire.method import Context
from thinwire.methods import create
from thinwire.payload import Payload, dense
from thinwire.wire import open_payload, pack

METHODS = ["fedit", "ffa-lora", "fedsrd", "fedsrd-e"]
MODULES = {"q": (48, 64), "up": (96, 64), "down": (64, 96), "v": (16, 64)}


def server() -> Server:
    g = torch.Generator().manual_seed(0)
    modules = {
        name: LowRank(torch.randn(rows, 4, generator=g) * 0.01, torch.randn(4, columns, generator=g) * 0.1, 2.0)
        for name, (rows, columns) in MODULES.items()
    }
    return begin(Adapters(modules, {"head": torch.randn(3, 5, generator=g)}), seed=7, run=7)


def uploads(to: Server, parts: frozenset[str], clients: int) -> list[Upload]:
    g = torch.Generator().manual_seed(1)
    found = []
    for k in range(clients):
        change = {key: torch.randn(t.shape, generator=g) * 1e-3 for key, t in to.adapters.items() if key[1] in parts}
        blob = pack(Payload("change", to.version, to.run, {key: dense(t.bfloat16()) for key, t in change.items()}))
        found.append(Upload(f"client-{k}", 1.0 + k, blob))
    return found


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("clients", [1, 3, 9])
def test_no_bit_depends_on_threads_or_arrival(name: str, clients: int, threads: None) -> None:
    to, method, ctx = server(), create(name), Context(0, 7)
    sent = uploads(to, method.trains(ctx), clients)
    results = []
    for count, order in ((1, sent), (2, sent[::-1]), (4, sent[1:] + sent[:1])):
        torch.set_num_threads(count)
        after, outcome = aggregate(method, to, iter(order), ctx)
        assert outcome.accepted == tuple(f"client-{k}" for k in range(clients))
        assert torch.get_num_threads() == count
        results.append(after)
    assert not same(results[0].adapters, to.adapters)
    assert all(same(results[0].adapters, other.adapters) for other in results[1:])
    assert all(results[0].broadcasts[1] == other.broadcasts[1] for other in results[1:])


@pytest.mark.parametrize("name", METHODS)
def test_a_weight_of_zero_is_no_upload(name: str) -> None:
    to, method, ctx = server(), create(name), Context(1, 7)
    sent = uploads(to, method.trains(ctx), 4)
    with_zero, outcome = aggregate(method, to, [*sent[:3], replace(sent[3], weight=0.0)], ctx)
    without, _ = aggregate(method, to, sent[:3], ctx)
    assert same(with_zero.adapters, without.adapters)
    assert "client-3" in outcome.accepted


def test_only_zero_weights_are_refused() -> None:
    to, method, ctx = server(), create("fedit"), Context(0, 7)
    with pytest.raises(ValueError, match="weights"):
        aggregate(method, to, [replace(one, weight=0.0) for one in uploads(to, method.trains(ctx), 2)], ctx)


def test_uploads_may_lie_in_files(tmp_path: Path) -> None:
    to, method, ctx = server(), create("fedsrd"), Context(0, 7)
    sent, mapped = uploads(to, method.trains(ctx), 6), []
    for upload in sent:
        (tmp_path / upload.client).write_bytes(upload.blob)
        with open(tmp_path / upload.client, "rb") as file:
            mapped.append(replace(upload, blob=mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    one, other = aggregate(method, to, sent, ctx)[0], aggregate(method, to, mapped, ctx)[0]
    assert same(one.adapters, other.adapters)


def test_uploads_are_checked_while_the_next_is_waited_for() -> None:
    to, method, ctx = server(), create("fedit"), Context(0, 7)
    sent, checked = uploads(to, method.trains(ctx), 2), threading.Event()

    class Watched(bytes):
        def __len__(self) -> int:
            checked.set()
            return super().__len__()

    def arriving() -> Iterator[Upload]:
        yield replace(sent[0], blob=Watched(sent[0].blob))
        assert checked.wait(10), "the first upload is opened before the second arrives"
        yield sent[1]

    _, outcome = aggregate(method, to, arriving(), ctx)
    assert outcome.accepted == ("client-0", "client-1")


def test_memory_of_one_upload_a_thread(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many clients there are, each thread holds the leaves of a bounded number of them."""
    from thinwire.engine import server as module

    torch.set_num_threads(1)
    to, method, ctx = server(), create("fedsrd"), Context(0, 7)
    alive, most = [0], [0]

    real = module._uploads

    def watched(*arguments: object) -> object:
        def counted(item: tuple[float, dict[str, torch.Tensor]]) -> tuple[float, dict[str, torch.Tensor]]:
            alive[0] += 1
            most[0] = max(most[0], alive[0])
            weakref.finalize(item[1]["a"], lambda: alive.__setitem__(0, alive[0] - 1))
            return item

        return real(*arguments).map(counted)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_uploads", watched)
    for clients in (8, 32):
        sent = uploads(to, frozenset({"a", "b"}), clients)
        with workers() as pool:
            readers = [(upload, open_payload(upload.blob)) for upload in sent]
            _changes(method, to, readers, ctx, pool)
    assert most[0] <= 3


def test_workers_compute_with_one_thread_and_give_the_rest_back(threads: None) -> None:
    torch.set_num_threads(3)
    with workers() as pool:
        assert [submit(pool, torch.get_num_threads).result() for _ in range(4)] == [1] * 4
    assert torch.get_num_threads() == 3
