"""FLoCoRA's message sizes recounted by shapes, against the paper's claims and against the bytes that are really packed.

`python benchmarks/flocora_sizes.py` prints a JSON line for each network, rank and number of bits: bytes of a float32
model, of one FLoCoRA message by the paper's count (values at their bits, 64 bits a channel, 1-D tensors in float32),
and of the packed change of one client after a few real steps on digits. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from thinwire.compress import StepContext, compress
from thinwire.compress.values import steps_up
from thinwire.config import Recipe, load_recipe
from thinwire.engine import ClientState, plan, train
from thinwire.method import Client, Context
from thinwire.methods import create
from thinwire.payload import Payload
from thinwire.session.loaded import open_session
from thinwire.simulation.federated import federated
from thinwire.wire import pack

ROOT = Path(__file__).parent.parent
CLAIMS = {("resnet8", 32, 0): 4.8, ("resnet8", 32, 8): 17.6, ("resnet18", 64, 8): 18.6}
CASES = (("resnet8", 32), ("resnet18", 64), ("resnet18", 32))


def recipe(network: str, rank: int, steps: int) -> Recipe:
    settings = [f"model.name={network}", f"lora.rank={rank}", f"lora.alpha={16 * rank}", f"train.steps={steps}"]
    settings += ["data.partition=iid", "data.count=4", "federation.clients_per_round=1", "run.threads=2"]
    values = load_recipe(ROOT / "recipes" / "digits.toml", [*settings, "train.batch=16"])
    object.__setattr__(values.train, "epochs", None)
    return values


def count(shape: tuple[int, ...], bits: int) -> int:
    """Bits of a tensor by the paper's count."""
    size = math.prod(shape)
    return 32 * size if bits == 0 or len(shape) < 2 else bits * size + 64 * shape[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "flocora_sizes.json")
    given = parser.parse_args()
    lines = []
    for network, rank in CASES:
        session = open_session(recipe(network, rank, given.steps))
        held = session.base.model.state_dict().items()
        weights = {name: tensor.numel() for name, tensor in held if "lora_" not in name}
        full = sum(size for name, size in weights.items() if ".original_module." not in name)
        method = create("flocora")
        federation, ctx = federated(session, method), Context(0, 0)
        client: Client = federation.clients[0]
        jobs = plan(federation.side(client), session.start, ClientState(), ctx)
        work = train([jobs], federation.train)[0]
        change = method.encode(work.plan, work.shared.adapters, ctx)
        for bits in (0, 8, 4, 2):
            used = create("flocora", values={"bits_up": bits})
            context = StepContext(work.plan.start, work.shared.adapters, 0)
            leaves, _ = compress(change, steps_up(used.values), context, {})
            packed = len(pack(Payload("change", 0, 0, leaves)))
            counted = sum(count(tuple(tensor.shape), bits) for tensor in change.values()) // 8
            lines.append(
                {
                    "network": network,
                    "rank": rank,
                    "bits": bits,
                    "parameters": full,
                    "trained": sum(tensor.numel() for tensor in change.values()),
                    "full_bytes": 4 * full,
                    "counted_bytes": counted,
                    "packed_bytes": packed,
                    "reduction_counted": round(4 * full / counted, 2),
                    "reduction_packed": round(4 * full / packed, 2),
                    "claimed": CLAIMS.get((network, rank, bits)),
                }
            )
            print(json.dumps(lines[-1]), flush=True)
    given.output.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
