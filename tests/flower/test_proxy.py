"""Behind a proxy that passes /v1/fleet/ only, sites take part, and nobody else can ask for anything."""

from __future__ import annotations

import http.client
import shutil
import ssl
from dataclasses import replace

import pytest

pytest.importorskip("flwr", reason="the extra flower is not installed")

from tests.flower.conftest import OWNERS, ROUNDS
from tests.flower.processes import everyone, faults, furnish, made
from tests.flower.proxy import proxy
from tests.simulation.conftest import write_toml
from thinwire.flower import control
from thinwire.flower.folder import open_server
from thinwire.flower.processes import free_port

pytestmark = [pytest.mark.slow, faults]


def test_sites_need_nothing_but_fleet_and_control_is_refused(place, settings, straight, tmp_path):
    public, inside = free_port(), free_port()
    recipe = write_toml(tmp_path / "recipe.toml", {**settings, **ROUNDS})
    federation = made(tmp_path / "f", OWNERS, recipe, "--port", inside, address=f"localhost:{public}")
    for name in OWNERS:
        furnish(federation.site(name), name, place)
    federation.rules(quorum=2)
    with proxy(public, inside, federation.server) as seen, everyone(federation):
        run = federation.submit()
        assert federation.finished(run) == straight.adapter
        assert all(passed for passed, _ in seen), "sites ask for nothing that is refused"
        refused(federation, public, tmp_path / "outside")
        assert {path for passed, path in seen if not passed} >= {"/v1/control/list-runs", "/v1/runtime/get-nodes"}


def refused(federation, public: int, folder) -> None:
    """Through the proxy, Flower's command line and a plain request for the other interfaces get nothing."""
    folder.mkdir()
    shutil.copy(federation.server / "ca.crt", folder)
    server = open_server(federation.server)
    outside = replace(server, path=folder, link=replace(server.link, port=public))
    with pytest.raises(control.ControlError, match="403"):
        control.runs(outside)
    with pytest.raises(control.ControlError, match="403"):
        control.flwr(outside, "run", str(federation.server / "app"), control.CONNECTION)
    trust = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    for path in ("/v1/runtime/get-nodes", "/v1/control/start-run", "/", "/v1/fleet", "/v1/fleets/"):
        link = http.client.HTTPSConnection("localhost", public, timeout=30, context=trust)
        link.request("POST", path, b"")
        assert link.getresponse().status == 403, path
        link.close()
