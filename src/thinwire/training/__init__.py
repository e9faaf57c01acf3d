"""Local training: base model + plan + examples -> trained adapters. One model in memory serves every client in turn."""

from thinwire.training.trainer import Job, Trained, Trainer

__all__ = ["Job", "Trained", "Trainer"]
