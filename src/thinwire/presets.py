"""Presets: a name for a method with settings of its own, which a recipe may still change. Torch is not needed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A method by name, with fields of its own and [values] other than the default ones."""

    method: str
    title: str
    paper: str
    summary: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


OFFICIAL = {
    "first": "a",
    "upload": "kurtosis",
    "download": "random",
    "rescale": True,
    "solve": "pinv",
    "error_feedback": 0.0,
}
"""What FedSRD's official code does."""

FEDSRD = "doi:10.1145/3774904.3792144"

PRESETS = {
    "flocora": Preset(
        "fedit",
        "FLoCoRA (quantised both ways)",
        "arXiv:2406.14082",
        "Average changes that are quantised both ways, one scale and zero point an output channel.",
        values={"precision": "float32", "bits_up": 8, "bits_down": 8, "scale_per": "channel"},
    ),
    "fedsrd-official": Preset(
        "fedsrd", "FedSRD as published", FEDSRD, "FedSRD as its official code does it.", OFFICIAL
    ),
    "fedsrd-e-official": Preset(
        "fedsrd-e", "FedSRD-e as published", FEDSRD, "FedSRD-e as its official code does it.", OFFICIAL
    ),
}
