"""Which file of a folder is which split of which domain, by its name; and which files are left out, and why."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from thinwire.data.readers import ENDINGS, suffix
from thinwire.data.values import as_name
from thinwire.settings import ConfigError, listed

SPLITS = ("train", "validation", "test")
WORDS = {"train": "train", "dev": "validation", "val": "validation", "valid": "validation",
         "validation": "validation", "test": "test"}  # fmt: skip
"""The names of splits, in whatever case."""

_WORD = "|".join(WORDS)
_AT_END = re.compile(rf"(?:(.+)([._-]))?({_WORD})", re.IGNORECASE | re.DOTALL)
_AT_START = re.compile(rf"({_WORD})[._-](.+)", re.IGNORECASE | re.DOTALL)
_LIKE_SPLIT = re.compile(rf"(?:{_WORD}|training|testing|eval|evaluation|holdout|heldout)\d*", re.IGNORECASE)
_FOREIGN = re.compile(
    r"(.+?)(?:\.(?:jsonl|ndjson|json|csv|tsv|parquet))?\.(?:xlsx?|ods|arrow|feather|avro|orc|pkl|pickle|npz|npy|h5|hdf5|"
    r"sqlite3?|db|zip|tar|tgz|7z|rar|gz|zst|bz2|xz|lz4|br|snappy|xml|ya?ml|jsonlines|jl|tab)",
    re.IGNORECASE | re.DOTALL,
)
"""Names of data in formats that are not read."""


@dataclass(frozen=True)
class SkippedFile:
    """A file that is left out. domain: what it would have been a file of, None if it is not data."""

    name: str
    reason: str
    domain: str | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


@dataclass
class Survey:
    """What a folder holds: the file of each domain and split, and what is left out."""

    files: dict[tuple[str, str], Path] = field(default_factory=dict)
    left: list[SkippedFile] = field(default_factory=list)

    def add(self, domain: str, split: str, path: Path) -> None:
        """Raises: ConfigError for a second file of the same split."""
        key = (as_name(domain, str(path)), split)
        if key in self.files:
            raise ConfigError(f"data.source: {self.files[key]} and {path} are both the {split} split of {key[0]}")
        self.files[key] = path


def survey(folder: Path) -> Survey:
    """The data files of a folder, and what is left out; hidden files are no part of it.

    `DOMAIN.SPLIT.SUFFIX`, `DOMAIN.SUFFIX` (train), `SPLIT.SUFFIX` (of a domain named like the folder), with `_` or `-`
    or the split first, too. Where no data file lies in the folder itself: `DOMAIN/SPLIT.SUFFIX`, `SPLIT/DOMAIN.SUFFIX`,
    and `DOMAIN/NAME.SUFFIX` for the only file of a folder (train). Raises: ConfigError for two files of one split.
    """
    whole = Survey()
    entries = _entries(folder)
    flat = any(suffix(path.name) and path.is_file() for path in entries)
    for path in entries:
        if path.is_dir() and suffix(path.name) is None and not flat:
            _folder(whole, path)
        elif (reason := _unusable(path)) is not None:
            whole.left.append(reason)
        else:
            _file(whole, path, folder.resolve().name)
    return whole


def stem(path: Path) -> str:
    """The name without its data suffix."""
    return path.name.removesuffix(suffix(path.name) or "")


def domain_and_split(name: str, parent: str) -> tuple[str, str] | None:
    """What a file's name without suffix says; None where it has the name of a split, but not where one is expected."""
    if end := _AT_END.fullmatch(name):
        domain, split, sure = end[1], end[3], end[2] == "."
    elif start := _AT_START.fullmatch(name):
        domain, split, sure = start[2], start[1], False
    else:
        domain, split, sure = name, "train", False
    if domain is None:
        return parent, WORDS[split.lower()]
    return (domain, WORDS[split.lower()]) if sure or not _split_like(domain) else None


def check_lost(domains: Collection[str], left: Iterable[SkippedFile]) -> None:
    """Raises: ConfigError for a file that is left out, of a domain that is then nobody's."""
    lost = [str(one) for one in left if one.domain is not None and one.domain not in domains]
    if lost:
        raise ConfigError(
            f"data.source: a client would be lost: {listed(lost, 5, '; ')}; allowed is DOMAIN.SUFFIX or "
            "DOMAIN.SPLIT.SUFFIX with SPLIT one of train, validation (valid, val, dev), test and SUFFIX one of "
            f"{ENDINGS}; or name the clients in data.clients"
        )


def without_training(whole: Survey, evaluated: Iterable[str]) -> list[SkippedFile]:
    """The domains that have no training file and are not evaluated; lost, unless the name says so without doubt."""
    left = []
    for (domain, split), path in whole.files.items():
        if (domain, "train") not in whole.files and domain not in evaluated:
            sure = stem(path).lower().endswith(f".{split}")
            reason = f"the {split} split of {domain}, which has no training file; data.evaluate can name it"
            left.append(SkippedFile(path.name, reason, None if sure else f"{domain}, {split}"))
    return left


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ConfigError(f"data.source: {folder} cannot be read: {error.strerror or error}") from error


def _unusable(path: Path) -> SkippedFile | None:
    """Why a file is no data file, if so."""
    data = suffix(path.name) is not None
    domain = _likely_domain(stem(path)) if data else None
    if path.is_symlink() and not path.exists():
        return SkippedFile(path.name, "a link to nothing", domain)
    if path.is_dir():
        holds = any(suffix(inner.name) for inner in _entries(path))
        return SkippedFile(path.name, "a folder beside data files", domain or (path.name if holds else None))
    if not path.is_file():
        return SkippedFile(path.name, "not a regular file", domain)
    if not data and (foreign := _FOREIGN.fullmatch(path.name)):
        return SkippedFile(path.name, "a format that is not read", _likely_domain(foreign[1]))
    return None if data else SkippedFile(path.name, "not named like a data file")


def _file(whole: Survey, path: Path, parent: str) -> None:
    name = stem(path)
    key = domain_and_split(name, parent)
    if key is None:
        reason = "the name of a split is neither its first word nor its last, or is none of train, validation, test"
        whole.left.append(SkippedFile(path.name, reason, _likely_domain(name)))
    else:
        whole.add(*key, path)


def _folder(whole: Survey, folder: Path) -> None:
    """The files of a folder in a folder."""
    paths = _entries(folder)
    alone = sum(suffix(path.name) is not None for path in paths) == 1
    split = WORDS.get(folder.name.lower())
    for path in paths:
        own = WORDS.get(stem(path).lower())
        if (left := _unusable(path)) is not None:
            lost = left.domain and (left.domain if split else folder.name)
            whole.left.append(SkippedFile(f"{folder.name}/{path.name}", left.reason, lost))
        elif split and not _split_like(stem(path)):
            whole.add(stem(path), split, path)
        elif not split and (own or (alone and not _split_like(stem(path)))):
            whole.add(folder.name, own or "train", path)
        else:
            reason = "neither DOMAIN/SPLIT nor SPLIT/DOMAIN"
            lost = _likely_domain(stem(path)) if split else folder.name
            whole.left.append(SkippedFile(f"{folder.name}/{path.name}", reason, lost))


def _split_like(name: str) -> bool:
    return any(_LIKE_SPLIT.fullmatch(part) for part in re.split(r"[._-]", name))


def _likely_domain(name: str) -> str:
    """The words of a name before the first that looks like a split's; if there are none, those after it."""
    parts = re.split(r"([._-])", name)
    like = [place for place in range(0, len(parts), 2) if _LIKE_SPLIT.fullmatch(parts[place])]
    if not like:
        return name
    return "".join(parts[: max(like[0] - 1, 0)]) or "".join(parts[2:]) or name
