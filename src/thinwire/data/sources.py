"""Where records come from: the generator, a file, a folder of files, or a Hugging Face data set.

A source is opened as a catalogue, {domain: {split: function that reads the records}}; nothing is read before it is
asked for, so a run on the validation split never opens a test file.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from thinwire.data import files, generator, images
from thinwire.data.config import DataConfig
from thinwire.data.files import SPLITS
from thinwire.data.readers import ENDINGS, extra_missing, read, suffix
from thinwire.data.values import Record, as_name, shown
from thinwire.settings import ConfigError

GENERATED = {"train": 1200, "validation": 64, "test": 64}  # examples per domain where data.*_limit is not given

Splits = dict[str, Callable[[], list[Record]]]
Catalogue = dict[str, Splits]


@dataclass(frozen=True)
class DataSource:
    """What a source has, by domain and split, and what of it is left out, with the reasons."""

    domains: Catalogue
    left_out: tuple[str, ...] = ()


def open_source(config: DataConfig, seed: int) -> DataSource:
    """What `data.source` has; `seed` chooses the generator's training examples, the others are always the same.

    A folder holds one file per domain and split (`files.survey`). A single file is the training split of the domain it
    is named after. The `datasets` library reads folders in its own forms (saved to disk; with shards,
    `NAME-00000-of-00001.parquet`; or without files of ours but with a data set card or a `data` folder), and `NAME` or
    `NAME:CONFIGURATION` on the hub: one domain, named by the name's last part. With `data.task` = image, a folder may
    also hold images as LABEL/FILE or SPLIT/LABEL/FILE, and `digits` are those of scikit-learn.
    Raises: ConfigError naming data.source, its value and what is there instead.
    """
    if config.source == "generator":
        return _generated(config, seed)
    if config.source == "digits":
        return DataSource(images.digits())
    if as_name(config.source, "data.source").partition(":")[0] in ("", " "):
        raise ConfigError(f"data.source = {config.source!r}: allowed is a folder, a file, `generator` or a data set")
    source = expand(config.source)
    path = Path(source)
    try:
        path.exists()
    except OSError as error:
        raise ConfigError(f"data.source = {shown(config.source)}: {error.strerror}") from error
    if path.is_file():
        return _single_file(path)
    if path.is_dir() and config.task == "image" and images.is_image_folder(path):
        return DataSource(*images.image_folder(path))
    if path.is_dir():
        return _local_data_set(path) if _is_data_set(path) else _folder(path, config)
    if _looks_like_path(source):
        raise ConfigError(f"data.source = {config.source!r}: there is no such file or folder; {_instead(path)}")
    if difflib.get_close_matches(source, ["generator"], cutoff=0.85):
        raise ConfigError(f"data.source = {config.source!r}: did you mean generator?")
    return _data_set(source)


def expand(text: str) -> str:
    """`text` with $NAME, ${NAME} and a leading ~ replaced. Raises: ConfigError naming a variable that is not set."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise ConfigError(f"data.source = {text!r}: the environment variable {name} is not set")
        return os.environ[name]

    return os.path.expanduser(re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, text))


def _generated(config: DataConfig, seed: int) -> DataSource:
    return DataSource({
        domain: {split: partial(_generate, config, domain, split, seed if split == "train" else 0) for split in SPLITS}
        for domain in generator.DOMAINS
    })


def _generate(config: DataConfig, domain: str, split: str, seed: int) -> list[Record]:
    field = "train_limit" if split == "train" else "test_limit"
    count = getattr(config, field) or GENERATED[split]
    try:
        rows = enumerate(generator.examples(domain, split, count, seed), start=1)
        return [Record(row, f"{domain}.{split}, record", number) for number, row in rows]
    except ValueError as error:
        raise ConfigError(f"data.{field} = {count}: the generator says: {error}") from error


def _single_file(path: Path) -> DataSource:
    if suffix(path.name) is None:
        raise ConfigError(f"data.source = {str(path)!r}: the name of a data file ends with {ENDINGS}")
    domain, _ = files.domain_and_split(files.stem(path), path.parent.resolve().name) or (files.stem(path), "train")
    return DataSource({as_name(domain, str(path)): {"train": partial(read, path)}})


def _folder(folder: Path, config: DataConfig) -> DataSource:
    found = files.survey(folder)
    domains: Catalogue = {}
    for (domain, split), path in found.files.items():
        domains.setdefault(domain, {})[split] = partial(read, path)
    left = [*found.left, *files.without_training(found, [as_name(name, "data.evaluate") for name in config.evaluate])]
    if not config.clients:
        files.check_lost([domain for domain, splits in domains.items() if "train" in splits], left)
    if not domains:
        raise ConfigError(f"data.source = {str(folder)!r}: no file is named DOMAIN.SPLIT.SUFFIX; {_instead(folder)}")
    return DataSource(domains, tuple(map(str, left)))


def _is_data_set(folder: Path) -> bool:
    names = [path.name for path in folder.iterdir() if suffix(path.name) and path.is_file()]
    described = _has_card(folder / "README.md") or (folder / "data").is_dir()
    return _is_saved(folder) or (described and not names) or any(re.search(r"-\d{5}-of-\d{5}", name) for name in names)


def _has_card(readme: Path) -> bool:
    """Whether a README begins as the hub's data set cards do."""
    return readme.is_file() and readme.read_bytes().startswith(b"---")


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _local_data_set(folder: Path) -> DataSource:
    try:
        return _data_set(str(folder))
    except ConfigError as error:
        raise ConfigError(f"{error}; {_instead(folder)}") from error


def _data_set(source: str) -> DataSource:
    path, configuration = source, ""
    if not Path(source).is_dir():
        path, _, configuration = source.partition(":")
    try:
        import datasets
    except ImportError as error:
        raise extra_missing(f"data.source = {source!r}: a Hugging Face data set", "datasets") from error
    try:
        loaded = (
            datasets.load_from_disk(path)
            if _is_saved(Path(path))
            else datasets.load_dataset(path, configuration or None)
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        what = "no data set" if Path(path).is_dir() else "not `generator`, no file or folder here, and no data set"
        raise ConfigError(f"data.source = {source!r}: {what} that the datasets library can load ({reason})") from error
    parts = loaded if isinstance(loaded, dict) else {"train": loaded}
    names = {split: name for name in parts if (split := files.WORDS.get(name.lower()))}
    if not names:
        raise ConfigError(f"data.source = {source!r}: its splits are {', '.join(parts)}, none is {', '.join(SPLITS)}")
    splits: Splits = {split: partial(_rows, parts[name], f"{source}, {name} record") for split, name in names.items()}
    left = [f"{name} (none of train, validation, test)" for name in parts if name not in names.values()]
    return DataSource({as_name(Path(path).resolve().name, source): splits}, tuple(left))


def _rows(split: Any, origin: str) -> list[Record]:
    """Records of a `datasets.Dataset`, its class labels, also those in lists, as their names."""
    for column, feature in split.features.items():
        if type(feature).__name__ == "Image":
            split = split.cast_column(column, type(feature)(decode=False))
    rows = [Record(row, origin, number) for number, row in enumerate(split, start=1)]
    for column, feature in split.features.items():
        inner = getattr(feature, "feature", None)
        if hasattr(feature, "int2str"):
            for row in rows:
                row[column] = _class_name(feature, row[column])
        elif hasattr(inner, "int2str"):
            for row in rows:
                row[column] = [_class_name(inner, label) for label in row[column] or ()]
    return rows


def _class_name(feature: Any, label: int | None) -> str | None:
    return None if label is None or label < 0 else feature.int2str(label)


def _looks_like_path(source: str) -> bool:
    path = Path(source)
    known = path.is_absolute() or suffix(path.name) is not None or source.startswith(".") or source.endswith("/")
    return known or len(path.parts) > 2 or (len(path.parts) == 2 and path.parent.is_dir())


def _instead(path: Path) -> str:
    """What the nearest existing folder of a path holds, the names nearest to the missing one first."""
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
    names = sorted(entry.name for entry in folder.iterdir())
    near = difflib.get_close_matches(path.name, names, n=3)
    shown = near + [name for name in names if name not in near][: 8 - len(near)]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"{folder.absolute()} holds {', '.join(shown) or 'nothing'}{more}"
