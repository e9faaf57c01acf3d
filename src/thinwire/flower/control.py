"""What an operator asks of a running server, with his key, through Flower's Control interface."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from thinwire.flower import apps
from thinwire.flower.folder import CA, OPERATOR, ServerFolder
from thinwire.settings import ConfigError
from thinwire.storage.directory import RunDirectory, write_json
from thinwire.storage.files import write_whole

RUNS = "flower.json"
Answer = TypeVar("Answer")


class ControlError(RuntimeError):
    """Flower refused what was asked, or did not answer; the text says why."""


@dataclass(frozen=True)
class Operator:
    """Puts the operator's key on a request."""

    key: str

    def intercept(self, context: Any, call_next: Callable[[Any], Any]) -> Any:
        context.request.headers["authorization"] = f"Bearer {self.key}"
        return call_next(context)


def ask(server: ServerFolder, question: Callable[[Any], Answer]) -> Answer:
    """What the server's Control interface answers. Raises: ControlError."""
    import httpx
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

    try:
        key, authority = (server.path / OPERATOR).read_text(), (server.path / CA).read_bytes()
        where = f"127.0.0.1:{server.local_port}"
    except (OSError, ConfigError) as error:
        raise ControlError(str(error)) from None
    speaks = [Operator(key), RuntimeVersionHttpInterceptor(component_name="flwr CLI")]
    try:
        with ControlHttpClient.from_server_address(where, False, authority, speaks) as client:
            return question(client)
    except httpx.HTTPStatusError as error:
        words = " ".join(error.response.text.split())
        raise ControlError(f"{error.response.status_code}: {words}") from None
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise ControlError(f"no answer at {where}: {error}; is `thinwire federation serve` running?") from None


def register(server: ServerFolder) -> list[str]:
    """Make the keys in `nodes/` known to the SuperLink; the sites that were new to it. Raises: ControlError."""
    from flwr.proto.control_pb2 import RegisterNodeRequest

    new = []
    for name in server.sites:
        mark = server.path / "nodes" / f"{name}.id"
        if mark.exists():
            continue
        request = RegisterNodeRequest(public_key=server.public_key(name), name=name)
        answer = ask(server, lambda client, request=request: client.RegisterNode(request))  # type: ignore[misc]
        write_whole(mark, f"{answer.node_id}\n".encode())
        new.append(name)
    return new


def submit(server: ServerFolder, output: Path) -> str:
    """Start the run in a directory, or go on with it; Flower's id, noted in the directory too. Raises: ControlError."""
    found = [app for app in apps.load(server.path) if app.name == apps.name_of(apps.RUN)]
    if not found:
        raise ControlError(f"{server.path / apps.FOLDER} has no app {apps.name_of(apps.RUN)}")
    values = {"rules": json.dumps(asdict(server.rules)), "output": str(output.resolve())}
    run = start(server, found[-1], values)
    write_json(output / RUNS, [*flower_runs(output), run])
    return run


def start(server: ServerFolder, app: apps.SignedApp, values: Mapping[str, Any]) -> str:
    """Start a signed app with these settings; Flower's id of the run. Raises: ControlError."""
    from flwr.common.serde import fab_to_proto, user_config_to_proto
    from flwr.proto.control_pb2 import StartRunRequest
    from flwr.supercore.fab import Fab

    known = fab_to_proto(Fab(app.hash, b"", {}))  # the gate gives Flower the content and the signature
    request = StartRunRequest(fab=known, app_spec=app.name, override_config=user_config_to_proto(dict(values)))
    answer = ask(server, lambda client: client.StartRun(request))
    if not answer.HasField("run_id"):
        raise ControlError("the run was not started")
    return str(answer.run_id)


def flower_runs(output: Path) -> list[str]:
    """Flower's ids of a run directory's submissions, oldest first."""
    path = output / RUNS
    return list(json.loads(path.read_text())) if path.exists() else []


def runs(server: ServerFolder) -> list[dict[str, Any]]:
    """Flower's runs, newest first. Raises: ControlError."""
    from flwr.proto.control_pb2 import ListRunsRequest

    found = ask(server, lambda client: client.ListRuns(ListRunsRequest())).run_dict.values()
    return [
        {
            "run-id": str(run.run_id),
            "status": ":".join(word for word in (run.status.status, run.status.sub_status) if word),
            "status-details": run.status.details,
            "pending-at": run.pending_at,
            "running-at": run.running_at,
            "finished-at": run.finished_at,
            "network-traffic": {"inbound-bytes": run.bytes_recv, "outbound-bytes": run.bytes_sent},
        }
        for run in sorted(found, key=lambda run: run.pending_at, reverse=True)
    ]


def nodes(server: ServerFolder) -> list[dict[str, Any]]:
    """The registered nodes by the site's name, and whether they are online. Raises: ControlError."""
    from flwr.proto.control_pb2 import ListNodesRequest

    names = {path.read_text().strip(): path.stem for path in (server.path / "nodes").glob("*.id")}
    found = ask(server, lambda client: client.ListNodes(ListNodesRequest())).nodes_info
    return [
        {"name": names.get(str(node.node_id), str(node.node_id)), "node-id": str(node.node_id), "status": node.status}
        for node in found
    ]


def stop(server: ServerFolder, run: str) -> None:
    """End one of Flower's runs; its run directory can be submitted again. Raises: ControlError."""
    from flwr.proto.control_pb2 import StopRunRequest

    if not ask(server, lambda client: client.StopRun(StopRunRequest(run_id=int(run)))).success:
        raise ControlError(f"run {run} was not stopped")


def progress(path: Path) -> dict[str, Any]:
    """How far a run directory is. Raises: ConfigError if it is none."""
    directory = RunDirectory(path)
    recipe = directory.recipe()
    lines = directory.lines()
    counted = [line for line in lines if line.get("status") == "counted"]
    return {
        "run": str(path),
        "round": max((line["round"] for line in counted), default=0),
        "rounds": recipe.federation.rounds,
        "loss": next((line["loss"] for line in reversed(lines) if "evaluation" in line), None),
        "epsilon": next((line["epsilon"] for line in reversed(lines) if "epsilon" in line), None),
        "finished": (path / "summary.json").exists(),
    }


def overview(path: Path, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How far a run directory is, with both counts of its bytes. Raises: ConfigError if it is none."""
    return {**progress(path), **bytes_of(path), "flower": traffic(path, runs)}


def bytes_of(path: Path) -> dict[str, int]:
    """thinwire's count of a run's bytes: all of a finished one, of another one those before its last checkpoint."""
    from thinwire.storage.checkpoint import checkpoints, read_manifest

    summary = path / "summary.json"
    if summary.exists():
        found = json.loads(summary.read_text())
    else:
        totals = [read_manifest(folder)["totals"] for folder in checkpoints(RunDirectory(path).checkpoints)]
        found = totals[-1] if totals else {"bytes_up": 0, "bytes_down": 0}
    return {name: found[name] for name in ("bytes_up", "bytes_down")}


def traffic(path: Path, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Flower's count of a run directory's bytes, over all its submissions; None if the server forgot one of them."""
    known = {str(run["run-id"]): run["network-traffic"] for run in runs}
    ids = flower_runs(path)
    if not ids or not known.keys() >= set(ids):
        return None
    return {
        "runs": ids,
        "bytes_up": sum(known[number]["inbound-bytes"] for number in ids),
        "bytes_down": sum(known[number]["outbound-bytes"] for number in ids),
    }
