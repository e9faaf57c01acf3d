"""Records with images: where they lie, and their examples."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thinwire.config import DataConfig
from thinwire.data import Picture
from thinwire.data.classify import labels_of
from thinwire.data.values import Record
from thinwire.settings import ConfigError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
SPLITS = ("train", "validation", "test")


def is_image_folder(folder: Path) -> bool:
    """Whether there are images two or three levels down: LABEL/FILE or SPLIT/LABEL/FILE."""
    return any(_is_image(path) for pattern in ("*/*", "*/*/*") for path in folder.glob(pattern))


def image_folder(folder: Path) -> dict[str, Any]:
    """{the folder's name: {split: function that reads the records}}; without SPLIT folders, all is train."""
    splits = {split: partial(_read, folder / split) for split in SPLITS if (folder / split).is_dir()}
    return {folder.resolve().name: splits or {"train": partial(_read, folder)}}


def digits() -> dict[str, Any]:
    """scikit-learn's 1,797 handwritten digits of 8 x 8, in the form of a source. Raises: ConfigError without it."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        text = "data.source = 'digits': needs the library scikit-learn: pip install thinwire[vision]"
        raise ConfigError(text) from error

    def read() -> list[Record]:
        found = load_digits()
        pixels = np.round(found.images * (255 / 16)).astype(int).tolist()
        labels = found.target.tolist()
        rows = enumerate(zip(pixels, labels, strict=True), start=1)
        return [Record({"image": image, "label": label}, "digits, record", number) for number, (image, label) in rows]

    return {"digits": {"train": read}}


def encode_images(
    records: Sequence[Record], config: DataConfig, classes: Sequence[str], size: int | None
) -> list[list[Picture]]:
    """One example a record, in three channels, resized to `size` x `size` if that is given.

    An image is the bytes of a file, a dictionary with `bytes` or `path` (as data sets have it), or rows of grey values
    or of colours from 0 to 255. Raises: ConfigError for one that cannot be read, or of another size than the first.
    """
    number = {label: index for index, label in enumerate(classes)}
    pictures: list[Picture] = []
    for record in records:
        pixels = _pixels(record, config, size)
        if pictures and pixels.shape != pictures[0].pixels.shape:
            first, other = (f"{p.shape[2]} x {p.shape[1]}" for p in (pictures[0].pixels, pixels))
            raise ConfigError(f"data.image_size is missing: images are of {first} and of {other}")
        pictures.append(Picture((), (number[labels_of(record, config)[0]],), pixels))
    return [[picture] for picture in pictures]


def _pixels(record: Record, config: DataConfig, size: int | None) -> torch.Tensor:
    """(3, H, W), uint8."""
    from PIL import Image, UnidentifiedImageError

    value = record.get(config.image)
    if value is None:
        columns = ", ".join(map(str, record))
        raise ConfigError(f"data.image = {config.image!r}: a record has no image there; its columns are {columns}")
    try:
        picture = _opened(value).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"data.image = {config.image!r}: no image that can be read: {error}") from error
    if size is not None and picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def _opened(value: Any) -> Any:
    from PIL import Image

    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else Path(value["path"]).read_bytes()
    if isinstance(value, bytes):
        return Image.open(io.BytesIO(value))
    rows = np.array(value)
    if rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() > 255:
        raise ValueError("values must be whole numbers from 0 to 255")
    return Image.fromarray(rows.astype(np.uint8))


def _read(folder: Path) -> list[Record]:
    paths = sorted(path for path in folder.glob("*/*") if _is_image(path))
    if not paths:
        raise ConfigError(f"{folder} holds no LABEL/FILE with an image ({', '.join(SUFFIXES)})")
    return [Record({"image": path.read_bytes(), "label": path.parent.name}, str(path)) for path in paths]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()
