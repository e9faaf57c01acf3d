"""A study's picture: each case's figure against the bytes it sent, at the end or round by round."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot(title: str, metric: str, lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Mean and standard deviation over seeds by megabytes, both ways; cases that send nothing as levels."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    colours = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for colour, line in zip(colours, [line for line in lines if metric in line], strict=False):
        sent, value, spread = line["megabytes_up"] + line["megabytes_down"], line[metric], line[f"{metric}_spread"]
        if sent == 0:
            axes.axhline(value, color=colour, linestyle=":", label=f"{line['case']} (sends nothing)")
        else:
            axes.errorbar(sent, value, yerr=spread, fmt="o", capsize=3, color=colour, label=line["case"])
    axes.set(xlabel="megabytes, both ways, all clients and rounds, as packed", ylabel=metric)
    finish(figure, axes, title, path)


def plot_curves(title: str, curves: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> None:
    """Validation loss by megabytes sent so far, both ways; cases that send nothing as levels of their last round."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for index, (name, points) in enumerate(curves.items()):
        if points[-1][0] == 0:
            axes.axhline(points[-1][1], color=f"C{index}", linestyle=":", label=f"{name} (sends nothing)")
        else:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, color=f"C{index}", label=name)
    axes.set(xlabel="megabytes sent so far, both ways, as packed", ylabel="validation loss")
    finish(figure, axes, title, path)


def finish(figure: Any, axes: Any, title: str, path: Path) -> None:
    """Scales, title and legend; the file is written."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set(xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(textwrap.fill(title, 80), fontsize=10, loc="left")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=130)
    plt.close(figure)
