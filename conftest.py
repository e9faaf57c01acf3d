"""Modules that need an extra are not collected for doctests where it is not installed; their tests say so.

Nothing in the tests needs a network: a name that is no folder is not looked for on the Hugging Face hub.
"""

import os
from importlib.util import find_spec

os.environ["HF_HUB_OFFLINE"] = "1"

collect_ignore_glob = [] if find_spec("flwr") else ["src/thinwire/flower/*", "tests/flower/grid.py"]
