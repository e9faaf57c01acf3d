"""Local training: base model + plan + examples -> trained adapters. One model in memory serves every client in turn."""

from thinwire.engine.jobs import Job, TrainingResult
from thinwire.training.trainer import Trainer

__all__ = ["Job", "Trainer", "TrainingResult"]
