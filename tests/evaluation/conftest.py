"""The fixtures of tests/tiny_models.py."""

from tests.tiny_models import one_thread, tiny  # noqa: F401
