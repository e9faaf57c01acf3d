"""A round of tests/laws/synthetic.py, stopped before the server's sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from tests.laws.synthetic import TRAVELLING, federation, made, rounds
from thinwire.adapters import Change, Key
from thinwire.compatibility import reasons
from thinwire.engine import Server, Upload
from thinwire.engine import rounds as module
from thinwire.engine.server import _changes
from thinwire.engine.workers import workers
from thinwire.method import Context, Method
from thinwire.payload import Payload, dense
from thinwire.privacy.noise import Noise, Sum
from thinwire.simulation.rounds import play
from thinwire.wire import open_payload, pack

SUMMED = [
    case for case in TRAVELLING if "central noise" not in reasons(made(*case))
]


def on_sum(clip: float, multiplier: float = 0.0, cohort: float = 1.0) -> Sum:
    """Noise on the server's sum; the sum itself by default."""
    return Sum(Noise("sum", clip, multiplier, 11), cohort)


@dataclass(frozen=True)
class Moment:
    """What a server is about to aggregate."""

    method: Method
    server: Server
    ctx: Context
    uploads: Sequence[Upload]

    def sum(self, uploads: Sequence[Upload], noised: Sum) -> Change:
        """What the real server makes of these uploads."""
        with workers() as pool:
            readers = [(upload, open_payload(upload.blob)) for upload in uploads]
            return _changes(self.method, self.server, readers, self.ctx, pool, noised)

    def upload(self, tensors: Mapping[Key, Tensor], client: str = "client-0") -> Upload:
        """An upload of these tensors, as they are."""
        leaves = {key: dense(tensor.float()) for key, tensor in tensors.items()}
        return Upload(client, 1.0, pack(Payload("change", self.server.version, self.server.run, leaves)))

    @property
    def shapes(self) -> dict[Key, tuple[int, ...]]:
        keys = self.server.adapters.trained(self.method.trains(self.ctx))
        return {key: tuple(self.server.adapters[key].shape) for key in keys}


def moment(case: tuple[str, dict], number: int = 2, clients: int = 3, **config) -> Moment:
    """A server after `number` rounds, with the uploads of the next."""
    seen: list[Upload] = []
    real = module.aggregate

    def watch(method, server, uploads, *rest):
        seen[:] = uploads
        return real(method, server, seen, *rest)

    federated = federation(made(*case), clients, **config)
    state, _ = rounds(federated, number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "aggregate", watch)
        play(federated, state, lambda line: None)
    return Moment(federated.method, state.server, Context(number, federated.seed), tuple(seen))


def length(change: Mapping[Key, Tensor]) -> float:
    """L2 norm over the whole model."""
    return float(torch.cat([tensor.double().flatten() for tensor in change.values()]).norm())


def difference(one: Change, other: Change) -> float:
    assert one.keys() == other.keys()
    return length({key: one[key].double() - other[key].double() for key in one})


def with_noise(federated, place: str, clip: float = 0.1, multiplier: float = 1.0):
    """The federation, with noise somewhere."""
    return replace(federated, noise=Noise(place, clip, multiplier, 11))
