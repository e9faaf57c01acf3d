"""`Strategy` and `mod` around a Flower user's app: plain arrays for him, the engine's bytes in between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

flwr = pytest.importorskip("flwr", reason="the extra flower is not installed")

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402

from tests.flower.grid import LocalGrid  # noqa: E402
from tests.laws.synthetic import seeded, start_adapters  # noqa: E402
from thinwire.adapters import EXTRA, same  # noqa: E402
from thinwire.compatibility import reasons  # noqa: E402
from thinwire.config import FederationConfig  # noqa: E402
from thinwire.engine import begin  # noqa: E402
from thinwire.engine.jobs import TrainingResult  # noqa: E402
from thinwire.federation.settings import Rules  # noqa: E402
from thinwire.federation.store import Store  # noqa: E402
from thinwire.flower import Strategy, mod  # noqa: E402
from thinwire.flower.arrays import layout_of, tensors_of  # noqa: E402
from thinwire.method import Client  # noqa: E402
from thinwire.methods import METHODS, create  # noqa: E402
from thinwire.privacy.accountant import ADD_OR_REMOVE, REPLACE, epsilon  # noqa: E402
from thinwire.privacy.config import PrivacyConfig  # noqa: E402
from thinwire.privacy.noise import Noise  # noqa: E402
from thinwire.randomness import derive  # noqa: E402
from thinwire.settings import ConfigError  # noqa: E402
from thinwire.simulation import rounds  # noqa: E402
from thinwire.storage.state import start  # noqa: E402

SEED, SCALE, NODES = 5, 2.0, (3, 7, 20)
NAMES = [name for name in METHODS if "state dict" not in reasons(create(name))]


def peft_name(key):
    name, part = key
    return name if part == EXTRA else f"base_model.model.{name}.lora_{part.upper()}.weight"


def initial():
    """A user's adapter as PEFT gives it."""
    return ArrayRecord({peft_name(key): tensor for key, tensor in start_adapters().items()})


def moved(name, tensor, node, number):
    return tensor * 0.97 + 0.1 * seeded(derive(node, number, name), *tensor.shape)


def make_app(method, folder, round_of=lambda config: config["server-round"] - 1):
    """What a Flower user writes, but for one line."""
    app = ClientApp(mods=[mod(method, folder)])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        config = message.content["config"]
        tensors = message.content["arrays"].to_torch_state_dict()
        trains = str(config["thinwire-trains"]).split(",")
        part = {name: "a" if "lora_A" in name else "b" if "lora_B" in name else "extra" for name in tensors}
        done = {
            name: moved(name, tensor, context.node_id, round_of(config)) if part[name] in trains else tensor
            for name, tensor in tensors.items()
        }
        metrics = MetricRecord({"train_loss": 1.0 / context.node_id, "num-examples": context.node_id})
        return Message(RecordDict({"arrays": ArrayRecord(done), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        tensors = message.content["arrays"].to_torch_state_dict()
        size = float(sum(tensor.abs().sum() for tensor in tensors.values()))
        metrics = MetricRecord({"eval_loss": size, "num-examples": context.node_id})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def grid_of(method, folder, **more):
    return LocalGrid(dict.fromkeys(NODES, make_app(method, folder, **more)), {node: {} for node in NODES})


def strategy_of(method, folder, **more):
    rules = Rules(quorum=more.pop("quorum", 3), patience=0.5)
    return Strategy(method, folder, scale=SCALE, seed=SEED, rules=rules, **more)


def by_the_engine(method, count, weights="uniform", noise=None, **config):
    """The same rounds by the simulation's loop."""
    layout = layout_of(initial(), SCALE)
    names = {f"node-{node}": node for node in NODES}
    clients = [Client(name, index, names[name]) for index, name in enumerate(sorted(names))]
    examples = {name: [node] for name, node in names.items()}

    def train(jobs):
        return [one(job) for job in jobs]

    def one(job):
        start = job.plan.start
        keys = start.trained(job.plan.parts)
        done = start.put({key: moved(peft_name(key), start[key], job.examples[0], job.round) for key in keys})
        return TrainingResult(done, 1.0, (), 0, 0, 0.0, {})

    config = FederationConfig(weights=weights, **config)
    federated = rounds.Federation(
        method=method, config=config, clients=clients, seed=SEED, run=1, noise=noise, examples=examples, train=train
    )
    adapters = layout.adapters(tensors_of(initial()))
    state = start(begin(layout.zeros, SEED, 1, adapters), (client.name for client in federated.clients))
    for _ in range(count):
        state = rounds.play(federated, state, lambda line: None)
    return state.server.adapters


def final(strategy):
    return strategy.layout.adapters(tensors_of(strategy.final))


@pytest.mark.parametrize("name", NAMES)
def test_flower_s_rounds_are_the_engine_s_to_the_last_bit(name, tmp_path):
    method = create(name)
    strategy = strategy_of(method, tmp_path / "run")
    result = strategy.start(grid_of(method, tmp_path / "nodes"), initial(), num_rounds=3)
    assert same(final(strategy), by_the_engine(method, 3))
    assert set(result.arrays) == set(initial())
    assert list(result.evaluate_metrics_clientapp) == [1, 2, 3]


def test_weights_by_examples_are_those_the_app_reports(tmp_path):
    method = create("fedit")
    config = FederationConfig(weights="examples")
    strategy = strategy_of(method, tmp_path / "run", federation=config)
    strategy.start(grid_of(method, tmp_path / "nodes"), initial(), num_rounds=2)
    assert same(final(strategy), by_the_engine(method, 2, "examples"))


def test_metrics_are_means_by_examples(tmp_path):
    method = create("fedit")
    result = strategy_of(method, tmp_path / "run").start(grid_of(method, tmp_path / "nodes"), initial(), num_rounds=1)
    wanted = sum(node * (1.0 / node) for node in NODES) / sum(NODES)
    assert result.train_metrics_clientapp[1]["train_loss"] == pytest.approx(wanted)


def test_a_run_stopped_and_started_again_ends_where_the_straight_run_ends(tmp_path):
    method = create("fedsrd")
    done: list[int] = []
    app_round = {"round_of": lambda config: config["server-round"] - 1 + len(done)}
    first = strategy_of(method, tmp_path / "run")
    first.start(grid_of(method, tmp_path / "nodes"), initial(), num_rounds=2)
    done += [1, 2]
    second = strategy_of(method, tmp_path / "run")
    second.start(grid_of(method, tmp_path / "nodes", **app_round), initial(), num_rounds=4)
    assert same(final(second), by_the_engine(method, 4))


def test_a_round_without_a_quorum_is_played_again(tmp_path, caplog):
    method = create("fedsrd")
    grid = grid_of(method, tmp_path / "nodes", round_of=lambda config: 0)
    lost = []

    def lose(message):
        training = message.metadata.message_type == "train" and len(grid.log) > 4
        if training and message.metadata.dst_node_id == 7 and not lost:
            lost.append(message)
            return "the node is unreachable"
        return False

    grid.lose = lose
    strategy = strategy_of(method, tmp_path / "run")
    with caplog.at_level("INFO", logger="flwr"):
        strategy.start(grid, initial(), num_rounds=2)
    assert lost
    assert strategy.run.state.round == 1
    assert same(final(strategy), by_the_engine(method, 1))


def test_the_user_s_app_must_not_move_what_the_method_keeps_fixed(tmp_path):
    method = create("ffa-lora")
    app = ClientApp(mods=[mod(method, tmp_path / "nodes")])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        tensors = {name: tensor + 1 for name, tensor in message.content["arrays"].to_torch_state_dict().items()}
        return Message(RecordDict({"arrays": ArrayRecord(tensors), "metrics": MetricRecord({})}), reply_to=message)

    strategy = strategy_of(method, tmp_path / "run")
    strategy.start(LocalGrid(dict.fromkeys(NODES, app), {node: {} for node in NODES}), initial(), num_rounds=1)
    assert strategy.run.state.round == 0
    (line,) = (tmp_path / "nodes" / "node-7" / "problems.jsonl").read_text().splitlines()
    assert "moved, and the method trains only b, extra" in line


def test_what_the_user_s_function_raises_stays_at_the_node(tmp_path):
    """Flower sends an exception's text to the server, and it may quote a record."""
    method = create("fedit")
    app = ClientApp(mods=[mod(method, tmp_path / "nodes")])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise KeyError("kanarie")

    strategy = strategy_of(method, tmp_path / "run")
    grid = LocalGrid(dict.fromkeys(NODES, app), {node: {} for node in NODES})
    strategy.start(grid, initial(), num_rounds=1)
    assert "kanarie" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    said = [str(answer.content["thinwire.header"]["json"]) for answer in grid.answers]
    assert '"problem": "app"' in said[-1]
    assert not any("kanarie" in text for text in said)
    assert "kanarie" in (tmp_path / "nodes" / "node-7" / "problems.jsonl").read_text()


def test_a_trainer_that_cannot_be_reached_is_told_without_a_word_of_the_site(tmp_path, monkeypatch):
    from thinwire.federation import messages, socket
    from thinwire.federation.messages import Request
    from thinwire.flower import client_app, records

    def gone(site, request):
        raise socket.TrainerUnreachable(f"the trainer of {site} ended: kanarie")

    monkeypatch.setattr(socket, "ask", gone)
    message = Message(records.content(Request("hello", "r")), dst_node_id=7, message_type="train")
    answer = client_app.app(message, Context(1, 7, {"site": str(tmp_path)}, RecordDict(), {}))
    reply = records.reply(answer.content)
    assert (reply.problem, reply.task) == ("trainer", "hello")
    assert str(tmp_path) not in messages.header(reply)
    assert "kanarie" in (tmp_path / "problems.jsonl").read_text()


def test_a_node_s_own_words_never_reach_the_server_s_log(tmp_path):
    from flwr.app import Error

    from thinwire.federation.messages import Request
    from thinwire.flower import records
    from thinwire.flower.grid import received

    message = Message(records.content(Request("hello", "r")), dst_node_id=7, message_type="train")
    message.metadata.__dict__["_message_id"] = "x"
    error = Message(Error(code=2, reason="\x1b[2J kanarie"), reply_to=message)
    assert list(received([error]).values()) == ["Flower reports: the node's app failed (code 2)"]


def test_another_method_on_the_other_side_is_refused(tmp_path):
    from thinwire.engine.rounds import RunStopped

    strategy = strategy_of(create("fedit"), tmp_path / "run")
    with pytest.raises(RunStopped, match="there are 0 sites"):
        strategy.start(grid_of(create("ffa-lora"), tmp_path / "nodes"), initial(), num_rounds=1)


def test_methods_that_arrays_cannot_carry_are_refused(tmp_path):
    for name in ("local", "centralised"):
        with pytest.raises(ConfigError, match="nothing travels"):
            Strategy(create(name), tmp_path)


def test_thin_messages_are_thin(tmp_path):
    """After the first message, which brings the start, Flower carries little more than the engine's bytes."""
    method = create("fedsrd")
    grid = grid_of(method, tmp_path / "nodes")
    strategy = strategy_of(method, tmp_path / "run", evaluate_every=0)
    strategy.start(grid, initial(), num_rounds=4)
    totals = strategy.run.state.totals
    blobs = sum(
        len(array.data)
        for message in [*grid.log, *grid.answers]
        for record in message.content.array_records.values()
        for array in record.values()
    )
    assert blobs == totals.bytes_up + totals.bytes_down


def test_a_node_s_state_is_on_its_disk(tmp_path):
    method = create("fedsrd")
    strategy = strategy_of(method, tmp_path / "run")
    strategy.start(grid_of(method, tmp_path / "nodes"), initial(), num_rounds=2)
    for node in NODES:
        folder = tmp_path / "nodes" / f"node-{node}" / "state" / "flower" / strategy.run.run
        saved = Store(folder).load(strategy.layout.zeros)
        assert saved.version == 2
        assert (tmp_path / "nodes" / f"node-{node}" / "audit.jsonl").exists()


def test_arrays_that_do_not_fit_are_named():
    arrays = initial()
    layout = layout_of(arrays, SCALE)
    tensors = tensors_of(arrays)
    name = next(iter(tensors))
    with pytest.raises(ValueError, match=f"{name}.*it is missing"):
        layout.adapters({key: value for key, value in tensors.items() if key != name})
    with pytest.raises(ValueError, match="its shape is"):
        layout.adapters({**tensors, name: torch.zeros(3)})
    half = ArrayRecord({key: value for key, value in tensors.items() if key != name})
    with pytest.raises(ValueError, match="has a factor"):
        layout_of(half, SCALE)


def test_config_reaches_the_user(tmp_path):
    method, seen = create("fedit"), []
    app = make_app(method, tmp_path / "nodes", round_of=lambda config: seen.append(dict(config)) or 0)
    grid = LocalGrid(dict.fromkeys(NODES, app), {node: {} for node in NODES})
    strategy_of(method, tmp_path / "run").start(grid, initial(), num_rounds=1, train_config=ConfigRecord({"lr": 0.5}))
    assert seen[0] == {"lr": 0.5, "server-round": 1, "thinwire-trains": "a,b,extra"}


def test_paths_may_be_text(tmp_path):
    strategy = strategy_of(create("fedit"), str(tmp_path / "run"))
    assert Path(strategy.folder).name == "run"


CENTRAL = PrivacyConfig("client", "central", clip=0.5, noise_multiplier=4.0, delta=1e-5)
LOCAL = replace(CENTRAL, noise="local")


@pytest.mark.parametrize(("privacy", "cost"), [(CENTRAL, {(3, 3): 3}), (LOCAL, {(1, 1): 3})], ids=["central", "local"])
def test_noise_on_the_sum_or_on_uploads_is_the_engine_s(tmp_path, privacy, cost):
    method = create("fedsrd")
    strategy = strategy_of(method, tmp_path / "run", privacy=privacy)
    strategy.start(grid_of(method, tmp_path / "nodes"), initial(), num_rounds=3)
    noise = Noise("upload" if privacy.local else "sum", 0.5, 4.0, SEED)
    assert same(final(strategy), by_the_engine(method, 3, noise=noise))
    told = strategy.run.costs.summary("")
    assert told["epsilon"] == epsilon(cost, 4.0, 1e-5, REPLACE if privacy.local else ADD_OR_REMOVE)


def test_a_node_s_secret_is_its_own_and_its_losses_stay(tmp_path):
    method = create("fedit")
    strategy = strategy_of(method, tmp_path / "run", privacy=replace(LOCAL, seed="system"))
    result = strategy.start(grid_of(method, tmp_path / "nodes"), initial(), num_rounds=2)
    secrets = {path.read_text() for path in (tmp_path / "nodes").rglob("secret")}
    assert len(secrets) == len(NODES)
    assert not result.train_metrics_clientapp
    assert not same(final(strategy), by_the_engine(method, 2, noise=Noise("upload", 0.5, 4.0, SEED)))


@pytest.mark.parametrize("privacy", [CENTRAL, LOCAL], ids=["central", "local"])
def test_the_budget_ends_the_rounds_of_flower(tmp_path, privacy, caplog):
    method = create("fedit")
    one, two = (epsilon({(1, 1): count}, 4.0, 1e-5, REPLACE if privacy.local else ADD_OR_REMOVE) for count in (1, 2))
    strategy = strategy_of(method, tmp_path / "run", privacy=replace(privacy, budget=(one + two) / 2))
    strategy.start(grid_of(method, tmp_path / "nodes"), initial(), num_rounds=4)
    noise = Noise("upload" if privacy.local else "sum", 0.5, 4.0, SEED)
    assert same(final(strategy), by_the_engine(method, 1, noise=noise))
    assert strategy.run.state.round == 1
    assert strategy.run.costs.spent["epsilon"] == one


@pytest.mark.parametrize(
    ("method", "privacy", "more", "words"),
    [
        ("fedit", PrivacyConfig("example", clip=1.0, noise_multiplier=1.0, delta=1e-5), {}, "which is the app's own"),
        ("flexlora", CENTRAL, {}, "the factors of an SVD are not a sum over clients; allowed is local"),
        ("fedsrd", CENTRAL, {"clients_per_round": 2}, "they keep error feedback"),
        ("fedit", CENTRAL, {"weights": "examples"}, "allowed is uniform only"),
        ("fedit", replace(CENTRAL, clip=None), {}, r"privacy\.clip is missing"),
    ],
)
def test_privacy_that_makes_no_sense_is_refused_with_the_reason(tmp_path, method, privacy, more, words):
    with pytest.raises(ConfigError, match=words):
        Strategy(create(method), tmp_path, privacy=privacy, federation=FederationConfig(**more))
