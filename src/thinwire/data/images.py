"""Records with images: where they lie, and their examples."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thinwire.data import Picture
from thinwire.data.classify import labels_of
from thinwire.data.config import DataConfig
from thinwire.data.files import WORDS
from thinwire.data.values import Record, as_name, at, columns, missing
from thinwire.settings import ConfigError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def is_image_folder(folder: Path) -> bool:
    """Whether there are images two or three levels down: LABEL/FILE or SPLIT/LABEL/FILE."""
    return any(_is_image(path) for pattern in ("*/*", "*/*/*") for path in folder.glob(pattern))


def image_folder(folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """({the folder's name: {split: function that reads the records}}, what is left out); all is train without SPLIT.

    Raises: ConfigError for two folders of one split.
    """
    roots: dict[str, Path] = {}
    for path in _seen(folder):
        split = WORDS.get(path.name.lower()) if path.is_dir() else None
        if split in roots:
            raise ConfigError(f"data.source: {roots[split]} and {path} are both the {split} split")
        if split:
            roots[split] = path
    left = [f"{path.name} (beside folders of splits)" for path in _seen(folder) if roots and path not in roots.values()]
    roots = roots or {"train": folder}
    left += [text for root in roots.values() for text in _left_out(root)]
    name = as_name(folder.resolve().name, str(folder))
    return {name: {split: partial(_read, root) for split, root in roots.items()}}, tuple(left)


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
            place = at(record, config.image, "image")
            raise ConfigError(f"{place}: {other} pixels, others have {first}: data.image_size is missing")
        pictures.append(Picture((), (number[labels_of(record, config)[0]],), pixels))
    return [[picture] for picture in pictures]


def _pixels(record: Record, config: DataConfig, size: int | None) -> torch.Tensor:
    """(3, H, W), uint8."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    value, place = record.get(config.image), at(record, config.image, "image")
    if missing(value):
        raise ConfigError(f"{place}: there is no image; the columns are {columns(record)}")
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            picture = _in_colours(ImageOps.exif_transpose(_opened(value)))
    except UnidentifiedImageError:
        raise ConfigError(f"{place}: no image that can be read: its bytes are of no known format") from None
    except Exception as error:  # a decoder of images raises whatever it likes
        raise ConfigError(f"{place}: no image that can be read: {error}") from error
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
        raise ValueError("allowed are the bytes of a file, or rows of whole numbers from 0 to 255")
    return Image.fromarray(rows.astype(np.uint8))


def _in_colours(picture: Any) -> Any:
    """Three channels of bytes; grey values of 16 bits by their whole range."""
    from PIL import Image

    if picture.mode == "F":
        raise ValueError("values are floating-point numbers; allowed are 8 or 16 bits")
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("values are beyond 16 bits; allowed are 8 or 16 bits")
        picture = Image.fromarray(np.round(values / 257).astype(np.uint8))
    return picture.convert("RGB")


def _read(folder: Path) -> list[Record]:
    paths = [path for label in _seen(folder) if label.is_dir() for path in _seen(label) if _is_image(path)]
    if not paths:
        raise ConfigError(f"{folder} holds no LABEL/FILE with an image ({', '.join(SUFFIXES)})")
    return [Record({"image": path.read_bytes(), "label": path.parent.name}, str(path)) for path in paths]


def _left_out(root: Path) -> Iterator[str]:
    """What lies in a folder of LABEL/FILE and is not an image, a line a label."""
    for path in _seen(root):
        others = [inner for inner in _seen(path) if not _is_image(inner)] if path.is_dir() else []
        if not path.is_dir():
            yield f"{root.name}/{path.name} (not in a folder of its class)"
        elif others:
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            yield f"{root.name}/{path.name}/{others[0].name}{more} (no image: {', '.join(SUFFIXES)})"


def _seen(folder: Path) -> list[Path]:
    """What is in a folder and not hidden, in order."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()
