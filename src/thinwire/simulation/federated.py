"""A session as a federation on this machine."""

from __future__ import annotations

import json

from thinwire.engine.clients import clients_of
from thinwire.identity import run_id
from thinwire.method import Method
from thinwire.session.loaded import Session
from thinwire.simulation.reference import shares
from thinwire.simulation.rounds import Federation


def federated(session: Session, method: Method) -> Federation:
    """The clients as this method sees them: each by itself, or pooled into one."""
    recipe = session.recipe
    share = shares(method, session.clients, recipe.federation)
    sizes = {name: len(own) for name, own in share.examples.items()}
    return Federation(
        method=method,
        config=share.config,
        clients=clients_of(share.config, sizes, recipe.lora.rank),
        seed=recipe.run.seed,
        run=run_id(json.dumps(session.identity, sort_keys=True)),
        server=recipe.server,
        noise=session.noise,
        examples=share.examples,
        train=session.trainer().train,
        steps_factor=share.steps_factor,
    )
