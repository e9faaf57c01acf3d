"""A method of one's own without touching the package: in a file, in an installed module, or behind an entry point.

`my_file.py:MyMethod`, `package.module:MyMethod`, or a name in the entry-point group `thinwire.methods`. A file is run
from the very bytes that were hashed.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.metadata
import importlib.util
import re
import sys
import traceback
from dataclasses import dataclass, is_dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

from thinwire.method import Method
from thinwire.settings import ConfigError

GROUP = "thinwire.methods"
FORMS = "allowed is my_file.py:MyMethod or package.module:MyMethod"
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""A method's name becomes a part of a folder's."""


@dataclass(frozen=True)
class MethodSource:
    """Where a method's code is. name: as the recipe has it; module: its name, or None for a file."""

    name: str
    path: Path
    attribute: str
    module: str | None = None

    @cached_property
    def code(self) -> bytes:
        """The file, read once. Raises: ConfigError."""
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise self.wrong(f"{self.path}: {error.strerror}") from None

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, as `sha256sum` prints it."""
        return hashlib.sha256(self.code).hexdigest()

    def wrong(self, why: str) -> ConfigError:
        return ConfigError(f"method.name = {self.name!r}: {why}")


def label_of(name: str) -> str:
    """The name by which a site's owner allows a method: of a file without its folder. Nothing is imported."""
    place, colon, attribute = name.rpartition(":")
    return f"{Path(place).name}:{attribute}" if colon and place.endswith(".py") else name


def absolute(name: str) -> str:
    """The same name, of a file with its whole path, so that it is found from everywhere."""
    place, colon, attribute = name.rpartition(":")
    return f"{Path(place).expanduser().resolve()}:{attribute}" if colon and place.endswith(".py") else name


def source_of(name: str) -> MethodSource | None:
    """Where the code of a method of one's own is; None if the name is not of that kind. Raises: ConfigError."""
    found = name
    if ":" not in name:
        points = [point for point in importlib.metadata.entry_points(group=GROUP) if point.name == name]
        if not points:
            return None
        found = points[0].value
    place, _, attribute = found.rpartition(":")
    if not place or not attribute.isidentifier():
        raise ConfigError(f"method.name = {name!r}: {FORMS}")
    if place.endswith(".py"):
        return MethodSource(name, Path(place).expanduser(), attribute)
    return MethodSource(name, _file_of(name, place), attribute, place)


def load(source: MethodSource) -> type[Method]:
    """The class, checked. Raises: ConfigError for code that fails, with file and line, and for what is not a method."""
    try:
        module = importlib.import_module(source.module) if source.module else _run(source)
    except Exception as error:
        raise source.wrong(_where(error, source)) from None
    kind = getattr(module, source.attribute, None)
    if not (isinstance(kind, type) and issubclass(kind, Method) and is_dataclass(kind)):
        raise source.wrong(f"{source.path} has no dataclass {source.attribute} that is a thinwire.method.Method")
    if not isinstance(getattr(kind, "name", None), str) or not WORD.fullmatch(kind.name):
        raise source.wrong(f"{source.attribute}.name must be a text of letters, digits, dot, dash and underscore")
    return kind


def installed() -> list[str]:
    """The names of methods behind entry points."""
    return sorted({point.name for point in importlib.metadata.entry_points(group=GROUP)})


class _Fixed(importlib.abc.SourceLoader):
    """Loads a module from bytes in memory: neither the file is read again nor a compiled one beside it."""

    def __init__(self, source: MethodSource) -> None:
        self.source = source

    def get_filename(self, fullname: str) -> str:
        return str(self.source.path)

    def get_data(self, path: str | bytes) -> bytes:
        return self.source.code


def _run(source: MethodSource) -> ModuleType:
    """The file as a module; the same bytes are run once."""
    name = f"thinwire_own_{source.sha256}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_loader(name, _Fixed(source))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _file_of(name: str, module: str) -> Path:
    """The file of an installed module. Raises: ConfigError."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"method.name = {name!r}: {error}; {FORMS}") from None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ConfigError(f"method.name = {name!r}: there is no module {module}; {FORMS}")
    return Path(spec.origin)


def _where(error: Exception, source: MethodSource) -> str:
    """An error of the method's own code with file and line."""
    if isinstance(error, ConfigError):
        return str(error).removeprefix(f"method.name = {source.name!r}: ")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(source.path)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    return f"{source.path}{f', line {line}' if line else ''}: {type(error).__name__}: {error}"
