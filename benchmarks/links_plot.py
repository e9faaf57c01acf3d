"""The picture of the links benchmark: seconds a round by link, for both sides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

BARS = (
    ("plain", False, "Flower alone, FedIT in bfloat16, an array for each tensor", "tab:grey"),
    ("joined", False, "the same values as one array", "silver"),
    ("thin", True, "thinwire, FedSRD: the first round (hello, state)", "tab:cyan"),
    ("thin", False, "thinwire, FedSRD: a later round", "tab:blue"),
)


def plot(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel for each payload, a group of bars for each link."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    payloads = sorted({line["payload"] for line in lines}, key=lambda name: name == "3b")
    figure, panels = plt.subplots(1, len(payloads), figsize=(5.5 * len(payloads), 4.5), layout="constrained")
    for axes, payload in zip([panels] if len(payloads) == 1 else panels, payloads, strict=True):
        draw(axes, [line for line in lines if line["payload"] == payload])
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    figure.suptitle("Seconds a round; each site has a link of its own", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw(axes: Any, lines: Sequence[dict[str, Any]]) -> None:
    links = sorted({(line["megabits"], line["round_trip_ms"]) for line in lines})
    for at, (side, first, label, colour) in enumerate(BARS):
        heights = [seconds(lines, link, side, first) for link in links]
        places = [place + 0.22 * (at - 1.5) for place in range(len(links))]
        bars = axes.bar(places, heights, 0.2, color=colour, label=label)
        axes.bar_label(bars, [f"{height:.0f}" for height in heights], fontsize=8)
    axes.set_xticks(range(len(links)), [f"{rate:g} Mbit/s, {delay:g} ms" for rate, delay in links], fontsize=8)
    axes.set(ylabel="seconds a round")
    one = lines[0]
    axes.set_title(f"{one['payload']}: {one['values'] / 1e6:.2f} million values, {one['sites']} sites", fontsize=10)
    axes.grid(axis="y", alpha=0.3)


def seconds(lines: Sequence[dict[str, Any]], link: tuple[float, float], side: str, first: bool) -> float:
    """Mean seconds of the first round, or of the later ones; nothing if there was no such run."""
    for line in lines:
        if (line["megabits"], line["round_trip_ms"]) == link and line["side"] == side:
            rounds = line["rounds"][:1] if first else line["rounds"][1:]
            return mean(each["seconds"] for each in rounds)
    return 0.0
