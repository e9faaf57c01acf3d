"""The training loop: what a plan says is trained, and nothing else moves."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from thinwire import peft_bridge
from thinwire.adapters import Key
from thinwire.data import Example
from thinwire.engine.jobs import Job, TrainingResult
from thinwire.models.base import Base
from thinwire.privacy.noise import Noise
from thinwire.randomness import derive
from thinwire.training import optimizer as optimizers
from thinwire.training import shares
from thinwire.training.anchor import Anchor
from thinwire.training.augment import varied
from thinwire.training.batches import PASS_COST, collate, room, split_by_length, stream, targets_of
from thinwire.training.config import TrainConfig
from thinwire.training.forward import autocast, losses_at
from thinwire.training.private import Draw, check_apart
from thinwire.training.schedule import factor


def step_examples(config: TrainConfig) -> int:
    """Examples of an optimizer step."""
    return config.batch * config.accumulation


def steps_of(config: TrainConfig, examples: int, steps_factor: int = 1) -> int:
    """Optimizer steps of a job on so many examples."""
    if config.epochs is None:
        return config.steps * steps_factor
    return max(1, math.ceil(config.epochs * examples / step_examples(config)))


class Trainer:
    """Trains on one base model, shared with evaluation. `rounds`: the schedule's horizon unless the recipe has one.

    noise: of example-level privacy, where the recipe has it.
    """

    def __init__(self, base: Base, model: Any, config: TrainConfig, rounds: int, noise: Noise | None = None) -> None:
        self.base, self.model, self.config, self.noise = base, model, config, noise
        self.horizon = config.horizon or rounds
        self.room = room(base.device.type, base.model.config) if base.tokenizer is not None else None
        self.parameters, self.shares = peft_bridge.parameters(model), shares.here()

    def train(self, jobs: Sequence[Job]) -> list[TrainingResult]:
        """Train every job from its plan's start. Raises: ValueError for a job without an example to learn from."""
        return [self._train(job) for job in jobs]

    def check_apart(self, examples: Sequence[Example]) -> None:
        """Raises: ConfigError if the model ties examples to one another, which noise on their gradients cannot hide."""
        for value in self.parameters.values():
            value.requires_grad_(value.is_floating_point())
        network = self._network()
        check_apart(network, examples, lambda example, seed: self._loss([example], network, seed))
        network.eval()

    def steps(self, job: Job) -> int:
        """Optimizer steps of a job."""
        return steps_of(self.config, len(job.examples), job.steps_factor) * job.plan.length

    def _train(self, job: Job) -> TrainingResult:
        began = time.perf_counter()
        if not any(targets_of(example) for example in job.examples):
            raise ValueError("a job has no example with a token to learn from")
        peft_bridge.write(self.model, job.plan.start)
        live = {key: value for key, value in self.parameters.items() if key[1] in job.plan.parts}
        for key, value in self.parameters.items():
            value.requires_grad_(key in live)
        optimizer = optimizers.build(self.config, live)
        optimizers.load(optimizer, live, job.optimizer or {})
        anchor = Anchor.of(live, self.config.proximal, job.plan.masks)
        network = self._network()
        devices = [self.base.device] if self.base.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(derive(job.seed, "dropout", job.round))
            losses, tokens = self._steps(job, live, network, optimizer, anchor)
        network.eval()
        state = {**(job.optimizer or {}), **optimizers.save(optimizer, live)} if self.config.keep_optimizer else {}
        adapters = replace(peft_bridge.read(self.model), merged=job.plan.start.merged)
        mean = sum(losses) / len(losses) if losses else math.nan
        return TrainingResult(adapters, mean, tuple(losses), len(losses), tokens, time.perf_counter() - began, state)

    def _network(self) -> Any:
        network = peft_bridge.network(self.model).train()
        if self.config.checkpointing:
            enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        return network

    def _steps(
        self,
        job: Job,
        live: Mapping[Key, nn.Parameter],
        network: Any,
        optimizer: torch.optim.Optimizer,
        anchor: Anchor,
    ) -> tuple[list[float], int]:
        """All steps; ends at the first that is not finite, whose loss is nan and which moves nothing."""
        steps = self.steps(job)
        size = step_examples(self.config)
        order = stream(job.seed, len(job.examples), job.round * steps * size, steps * size)
        losses: list[float] = []
        tokens = 0
        for step in range(steps):
            position = job.round * steps + step
            rate = factor(self.config.schedule, position, steps * self.horizon, self.config.warmup)
            optimizer.param_groups[0]["lr"] = self.config.learning_rate * rate
            optimizer.zero_grad()
            if self.noise is None:
                examples = [job.examples[index] for index in order[step * size : (step + 1) * size]]
                examples = varied(examples, self.config.augment, derive(job.seed, "augment", position))
                loss = self.shares.add(live.values(), self._gradients(examples, network))
            else:
                among = len(job.examples)
                draw = Draw(self.noise, (job.seed, job.round, step), min(size, among), among)
                drawn = {place: self._varied(job, place, draw.seed(place, "augment")) for place in draw.places}
                examples = list(drawn.values())
                loss = draw.gradients(live, drawn, lambda example, seed: self._loss([example], network, seed))
            losses.append(self._move(loss, optimizer, anchor))
            if not math.isfinite(losses[-1]):
                break
            tokens += sum(len(example.tokens) for example in examples)
        return losses, tokens

    def _varied(self, job: Job, place: int, seed: int) -> Example:
        """An example augmented by a seed of its own, whoever else was drawn."""
        return varied(job.examples[place : place + 1], self.config.augment, seed)[0]

    def _loss(self, examples: Sequence[Example], network: Any, seed: int) -> Tensor:
        """Mean loss over the target tokens of one forward pass, whose dropout follows from the seed."""
        torch.manual_seed(seed)
        batch = collate(examples).to(self.base.device)
        with autocast(self.base.device, self.config.autocast):
            return losses_at(network, batch).mean()

    def _gradients(self, examples: Sequence[Example], network: Any) -> float:
        """Set this process's share of the gradients of the mean loss over all target tokens; its share of that loss."""
        count = sum(targets_of(example) for example in examples)
        loss = 0.0
        spare = PASS_COST.get(self.base.device.type)
        for part in split_by_length(self.shares.mine(examples), self.config.batch, spare, self.room):
            batch = collate(part).to(self.base.device)
            if not len(batch.targets):
                continue
            with autocast(self.base.device, self.config.autocast):
                share = losses_at(network, batch).sum() / count
            share.backward()
            loss += float(share.detach())
        return loss

    def _move(self, loss: float, optimizer: torch.optim.Optimizer, anchor: Anchor) -> float:
        """One optimizer step along the gradients; its loss, or nan if that or they are not finite."""
        anchor.pull()
        parameters = [p for p in optimizer.param_groups[0]["params"] if p.grad is not None]
        if not parameters:
            return 0.0
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not (math.isfinite(loss) and bool(norm.isfinite())):
            return math.nan
        if self.config.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.clip, norm)
        optimizer.step()
        anchor.hold()
        return loss
