"""thinwire: federated LoRA fine-tuning with traffic as thin as information theory allows."""

__version__ = "0.1.0"
