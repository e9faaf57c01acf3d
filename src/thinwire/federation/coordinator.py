"""The server's side of a run across sites, whatever carries the bytes: who is there, what each is sent, what counts."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial

from thinwire.clock import clock, span
from thinwire.engine import Answer, ClientState, Server, ServerSide, begin
from thinwire.engine.rounds import collect, drops_out, messages, sample
from thinwire.evaluation import Scores
from thinwire.federation.members import Members, Replies
from thinwire.federation.messages import MessageError, Reply, Request
from thinwire.federation.privacy import Costs
from thinwire.federation.replies import fault, number, scores_of
from thinwire.federation.setup import Setup
from thinwire.identity import adapters_hash, check_same, run_id
from thinwire.method import Client, Context
from thinwire.privacy.ledger import BudgetSpent
from thinwire.privacy.noise import Noise
from thinwire.storage import checkpoint
from thinwire.storage.directory import write_json
from thinwire.storage.metrics import Line, line
from thinwire.storage.state import State, monitored, result_of, start

MISSED = {
    "late": "missed its round and is part of this one's",
    "discarded": "missed its round and is discarded: it cannot be added to a later one",
}
"""What becomes of an upload that came too late: the site's word for it, and ours."""


@dataclass
class Coordinator:
    """A run's state between messages. `note`: who hears of trouble; stopped: why privacy ends the run."""

    setup: Setup
    note: Callable[[str], None]
    run: str
    state: State
    members: Members
    counted: dict[str, int] = field(default_factory=dict)
    evaluated: set[int] = field(default_factory=set)
    stopped: str = ""
    costs: Costs = field(init=False)

    def __post_init__(self) -> None:
        self.costs = Costs(self.setup.privacy, self.setup.directory.checkpoints)

    @property
    def federation(self) -> ServerSide:
        """All sites ever seen, as the engine knows them."""
        setup = self.setup
        return ServerSide(
            method=setup.method,
            config=setup.federation,
            clients=self.members.clients,
            seed=setup.seed,
            server=setup.server,
            noise=self.costs.noise,
        )

    @property
    def present(self) -> ServerSide:
        """The sites that can be asked now."""
        whole = self.federation
        return replace(whole, clients=[client for client in whole.clients if client.name in self.members.nodes])

    def meet(self, replies: Replies) -> None:
        """Take in the sites that answered a hello and fit."""
        for reply in self.members.meet(replies):
            self.costs.add(reply)
            self._holds(reply.site, reply.version)

    def _holds(self, site: str, version: int | None) -> None:
        """Note what version a site holds; one ahead of this server's (it came from a later checkpoint) is of no use."""
        known = version if version is not None and 0 <= version <= self.state.server.version else None
        self.state = replace(self.state, clients=self.state.clients.put({site: ClientState(version=known)}))

    # a round

    def open_record(self) -> None:
        """Open the record of the server's own noise, before the first round. Raises: ConfigError if it is lost."""
        self.costs.open(self.federation, bool(checkpoint.checkpoints(self.setup.directory.checkpoints)))

    def stops(self) -> str:
        """Why privacy lets no round follow; empty if it does."""
        over = self.costs.over(self.federation, self.state.round, self.setup.rules.quorum)
        self.stopped = self.stopped or over
        return self.stopped

    @property
    def drawn(self) -> list[Client]:
        """Who is asked in this round: drawn of the sites that are there and have not spent their budget.

        With noise on the sum, of all sites ever seen, so that an absent one changes neither rate nor divisor.
        """
        if self.setup.privacy.central:
            assert self.costs.noise is not None, "`open_record` comes first"
            every = sample(self.federation, self.state.round)
            return [client for client in every if client.name in self.members.nodes]
        present = self.present
        left = [client for client in present.clients if client.name not in self.costs.out]
        return sample(replace(present, clients=left), self.state.round)

    def ask(self) -> dict[int, Request]:
        """The round's requests by node."""
        federation, ctx = self.present, Context(self.state.round, self.setup.seed)
        requests = {}
        for client in self.drawn:
            task = "catch-up" if drops_out(federation, client, ctx) else "round"
            requests[self.members.nodes[client.name]] = self._request(task, client)
        return requests

    def _request(self, task: str, client: Client) -> Request:
        state, known = self.state, self.state.clients.version(client.name)
        return Request(
            task,
            self.run,
            round=state.round,
            version=state.server.version,
            counted=self.counted.get(client.name, -1),
            client=asdict(client),
            blobs=tuple(messages(self.federation, state.server, client, known, state.round)),
        )

    def take(self, asked: Mapping[int, Request], replies: Replies) -> bool:
        """Aggregate what came back; False if there is no quorum, and the round is to be repeated, or privacy stops it.

        Raises: Diverged if the new adapters would not be finite.
        """
        state = self.state
        by_name = {str(request.client["name"]): node for node, request in asked.items()}
        delivered = {name: sum(map(len, asked[node].blobs)) for name, node in by_name.items()}
        answers, refused = self._sort(asked, replies, by_name)
        clients = [client for client in self.federation.clients if client.name in by_name]
        blobs = {client.name: answers[client.name].blob for client in clients if client.name in answers}
        with clock() as seconds, span("method"):
            try:
                server, rejected, enough = self._collected(asked, blobs, state.round)
            except BudgetSpent as error:
                self.stopped = str(error)
                return False
        refused |= rejected
        lines = [
            line(name, state.round, delivered[name], answers.get(name), refused.get(name))
            for name in (client.name for client in clients)
        ]
        accepted = [name for name in answers if name not in rejected]
        for entry in lines:
            if entry["client"] in refused:
                self.note(f"round {state.round + 1}: {entry['client']} {entry['status']}")
            elif not enough and entry["status"] == "counted":
                entry["status"] = "no quorum"
            self._note_missed(entry, replies.get(by_name[entry["client"]]))
        totals = state.totals.after(answers.values(), delivered.values(), state.server.version, seconds)
        self.state = replace(self.state, totals=totals)
        if enough:
            self.counted |= dict.fromkeys(accepted, state.round)
            self.state = replace(self.state, server=server, round=state.round + 1)
            if spent := self.costs.spent:
                lines.append({"round": state.round + 1, **spent})
        self.setup.directory.append(lines)
        return enough

    def _note_missed(self, entry: Line, reply: Reply | str | None) -> None:
        """Say what the site did with an upload that missed its round."""
        for word, words in MISSED.items():
            missed = reply.facts.get(word) if isinstance(reply, Reply) else None
            if isinstance(missed, int):
                entry[word] = missed + 1
                self.note(f"round {entry['round']}: {entry['client']}: its upload of round {missed + 1} {words}")

    def _collected(
        self, asked: Mapping[int, Request], blobs: Mapping[str, bytes], number: int
    ) -> tuple[Server, dict[str, str], bool]:
        """The server after the uploads, those it refused, and whether there is a quorum.

        With noise on the sum nothing is shown without a quorum; with one, the release is recorded first.
        """
        federation, rules = self.federation, self.setup.rules
        training = sum(request.task == "round" for request in asked.values())
        needed = rules.quorum if federation.config.clients_per_round is None else min(rules.quorum, training)

        def made(noise: Noise | None) -> tuple[tuple[Server, dict[str, str], bool], str]:
            server, rejected = collect(replace(federation, noise=noise), self.state.server, blobs, number)
            enough = len(blobs) - len(rejected) >= needed or not training
            return (server, rejected, enough), adapters_hash(server.adapters) if enough else ""

        return self.costs.show(federation, number, made) if self.costs.ledger else made(None)[0]

    def _sort(
        self, asked: Mapping[int, Request], replies: Replies, nodes: Mapping[str, int]
    ) -> tuple[dict[str, Answer], dict[str, str]]:
        """What came of each site's round, and reasons for refusal, by site."""
        answers: dict[str, Answer] = {}
        refused: dict[str, str] = {}
        for name, node in sorted(nodes.items()):
            reply = replies.get(node, "no answer in time")
            reason = reply if isinstance(reply, str) else fault(reply, asked[node], name)
            if not isinstance(reply, str) and reply.site == name and reply.run == self.run:
                self._holds(name, reply.version)
                self.costs.add(reply)
            if reason:
                refused[name] = reason
                continue
            assert isinstance(reply, Reply)
            if isinstance(count := reply.facts.get("examples"), int) and count > 0:
                self.members.examples[name] = count
            if asked[node].task == "round":
                figures = (number(reply.facts, name) for name in ("density", "loss", "seconds"))
                answers[name] = Answer(reply.blob, *figures)
        return answers, refused

    # scores

    def ask_scores(self, task: str) -> dict[int, Request]:
        """Requests by node to score the adapters of now: "evaluate", "test", or "finish", which ends with them."""
        return {self.members.nodes[client.name]: self._request(task, client) for client in self.present.clients}

    def answers(self, asked: Mapping[int, Request], replies: Replies) -> dict[str, Reply]:
        """The replies that can be used, by site; the others are named. What was sent counts."""
        found = {}
        for node, request in sorted(asked.items()):
            name, reply = str(request.client["name"]), replies.get(node, "no answer in time")
            reason = reply if isinstance(reply, str) else fault(reply, request, name)
            if isinstance(reply, str) or reason:
                self.note(f"round {self.state.round}: {request.task}: {name}: {reason}")
                continue
            self._holds(name, reply.version)
            found[name] = reply
        down = [sum(map(len, request.blobs)) for request in asked.values()]
        totals = self.state.totals.after((), down, self.state.server.version, {})
        self.state = replace(self.state, totals=totals)
        if any(request.task == "evaluate" for request in asked.values()):
            self.evaluated.add(self.state.round)
        return found

    def take_scores(self, asked: Mapping[int, Request], replies: Replies) -> dict[str, dict[str, Scores]]:
        """Scores by site and domain; who sent none is named."""
        found = {}
        for name, reply in self.answers(asked, replies).items():
            try:
                found[name] = scores_of(reply.facts)
            except MessageError as error:
                self.note(f"round {self.state.round}: {reply.task}: {name}: {error}")
        return found

    @property
    def due(self) -> bool:
        """Whether the adapters of now are to be evaluated and were not yet."""
        every, done = self.setup.evaluate_every, self.state.round
        return bool(every and done and done % every == 0 and done not in self.evaluated)

    def evaluate(self, scores: Mapping[str, Mapping[str, Scores]]) -> Line | None:
        """The line of an evaluation, with the best round's adapter kept; None if nobody sent a score.

        The loss is the mean over sites of each site's mean over its domains.
        """
        losses = {name: mean([score.loss for score in domains.values()]) for name, domains in scores.items() if domains}
        if not losses:
            return None
        counts = {name: sum(score.examples for score in domains.values()) for name, domains in scores.items()}
        best, setup = result_of(self.setup.method, self.state), self.setup
        keep = partial(setup.export, best, setup.directory.best)
        self.state, entry = monitored(self.state, losses, {"examples": counts}, keep)
        self.setup.directory.append([entry])
        return entry

    def save(self) -> None:
        """A checkpoint of the round to play next."""
        directory = self.setup.directory
        self.state = checkpoint.save(self.state, directory.checkpoints, self.setup.fingerprints)
        directory.accept(())


def opened(setup: Setup, note: Callable[[str], None]) -> Coordinator:
    """A coordinator where the run directory stands: at its newest usable checkpoint, or before the first round.

    Raises: ConfigError if what the run is computed from has changed since the checkpoint.
    """
    directory = setup.directory
    identity = directory.path / "run.json"
    if not identity.exists():
        write_json(identity, {"run": f"{setup.method.name}-{secrets.token_hex(8)}"})
    run = json.loads(identity.read_text())["run"]
    state = start(begin(setup.start, setup.seed, run_id(run), setup.initial), ())
    if checkpoint.checkpoints(directory.checkpoints):
        before, accepted = checkpoint.identity(directory.checkpoints), {*setup.accepted, *directory.accepted}
        for text in check_same(before, setup.fingerprints, accepted, str(directory.path)):
            note(text)
        state, problems = checkpoint.load(directory.checkpoints, setup.start, setup.seed, run_id(run))
        for problem in problems:
            note(f"checkpoint {problem}; continuing from round {state.round + 1}")
    directory.rewind(state.round)
    lines = directory.lines()
    counted = {entry["client"]: entry["round"] - 1 for entry in lines if entry.get("status") == "counted"}
    losses = {entry["round"]: entry["loss"] for entry in lines if "evaluation" in entry}
    if losses:
        best = min(losses, key=lambda number: (losses[number], number))
        state = replace(state, best_round=best, best_loss=losses[best])
    met = dict.fromkeys(state.clients, 1)  # how many examples they have they say when they are back
    members = Members(setup, run, note, examples=met)
    return Coordinator(setup, note, run, state, members, counted=counted, evaluated=set(losses))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)

