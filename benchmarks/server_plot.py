"""The plot of benchmarks/server.py: seconds and memory against the number of clients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLOURS = {"fedit": "#4c72b0", "flora": "#8172b3", "fedsrd-e": "#55a868", "fedsrd": "#c44e52"}


def plot(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """One column a model: seconds of a round's aggregate above (dashed: the dense formula), peak memory below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = list(dict.fromkeys((line["model"], line["rank"]) for line in lines))
    figure, axes = pyplot.subplots(2, len(models), figsize=(5.5 * len(models), 7), squeeze=False, sharex=True)
    for column, (model, rank) in enumerate(models):
        for method, colour in COLOURS.items():
            own = [line for line in lines if (line["model"], line["method"]) == (model, method)]
            clients = [line["clients"] for line in own]
            axes[0][column].loglog(clients, [line["seconds"] for line in own], "o-", color=colour, label=method)
            axes[1][column].loglog(clients, [max(line["peak_extra_mb"], 1) for line in own], "o-", color=colour)
            for line in own:
                if line["dense_seconds"] is not None:
                    axes[0][column].axhline(line["dense_seconds"], ls="--", lw=1, color=colour)
        axes[0][column].set(title=f"{model}, rank {rank}", ylabel="seconds a round (dashed: dense, K = 4)")
        axes[1][column].set(ylabel="peak extra memory, MB", xlabel="clients")
        axes[1][column].set_xticks(clients, [str(count) for count in clients])
        axes[0][column].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
