"""The registry: one paper, one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from thinwire.method import Method
from thinwire.methods.fdlora import FDLoRA
from thinwire.methods.fed_dare import FedDARE
from thinwire.methods.fedex_lora import FedExLoRA
from thinwire.methods.fedit import FedIT
from thinwire.methods.fedsa_lora import FedSALoRA
from thinwire.methods.fedsrd import FedSRD, FedSRDe
from thinwire.methods.ffa_lora import FFALoRA
from thinwire.methods.flasc import FLASC
from thinwire.methods.flexlora import FlexLoRA
from thinwire.methods.flora import FLoRA
from thinwire.methods.hetlora import HetLoRA
from thinwire.methods.reference import Centralised, Local
from thinwire.methods.rolora import RoLoRA
from thinwire.own_methods import MethodSource, installed, load, source_of
from thinwire.presets import PRESETS
from thinwire.settings import build, unknown
from thinwire.values import ValuesConfig

LANGUAGE = (FedIT, FFALoRA, RoLoRA, FedExLoRA, FedDARE, FedSRD, FedSRDe, FLASC, FLoRA, HetLoRA, FlexLoRA)
PERSONAL = (FDLoRA, FedSALoRA)
METHODS: dict[str, type[Method]] = {method.name: method for method in (*LANGUAGE, *PERSONAL)}
REFERENCES: dict[str, type[Method]] = {reference.name: reference for reference in (Local, Centralised)}


def register(method: type[Method]) -> type[Method]:
    """Make a method known by its name to recipes and the command line; usable as a class decorator."""
    METHODS[method.name] = method
    return method


def create(
    name: str, fields: Mapping[str, Any] | None = None, values: Mapping[str, Any] | None = None
) -> Method:
    """The method of that name (a preset, a reference, or one's own, too) with these fields and [values].

    Raises: ConfigError for an unknown name or field, or a bad value.
    """
    kind, preset = kind_of(name), PRESETS.get(name)
    if preset:
        fields, values = {**preset.fields, **(fields or {})}, {**preset.values, **(values or {})}
    method = build(kind, fields or {}, "method")
    return replace(method, values=build(ValuesConfig, values or {}, "values"))


def kind_of(name: str) -> type[Method]:
    """The class of a method, preset or reference. Raises: ConfigError for an unknown name."""
    known = {**METHODS, **REFERENCES}
    if name in PRESETS:
        return named(name)
    if name in known:
        return known[name]
    if source := source_of(name):
        return own(source)
    raise unknown(f"method.name = {name!r}", name, {*known, *PRESETS, *installed()})


def shipped(name: str) -> bool:
    """Whether a name needs no code but what is here."""
    return name in PRESETS or name in METHODS or name in REFERENCES


def own(source: MethodSource) -> type[Method]:
    """The class of a method of one's own. Raises: ConfigError if it fails, or has another method's name."""
    kind = load(source)
    taken = {**METHODS, **REFERENCES, **dict.fromkeys(PRESETS)}
    if taken.get(kind.name, kind) is not kind:
        raise source.wrong(f"{source.attribute}.name = {kind.name!r} is another method's; allowed is a new one")
    return kind


@cache
def named(name: str) -> type[Method]:
    """The method of a preset, under the preset's name."""
    preset = PRESETS[name]
    words = {"name": name, "title": preset.title, "paper": preset.paper, "__doc__": preset.summary}
    return type(METHODS[preset.method].__name__, (METHODS[preset.method],), words)
