"""Who holds what: a table for the terminal and a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from thinwire.data import Example
from thinwire.data.config import DataConfig
from thinwire.data.load import Dataset
from thinwire.data.templates import Tokenizer, described
from thinwire.settings import listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BARS = "▁▂▃▄▅▆▇█"
ROWS = 20  # clients that the table lists; the others are summed in its last line
LABELS = 16  # labels with a bar of their own in the table
PALETTE = (*range(0, 14, 2), 16, 18, *range(1, 14, 2), 17, 19)  # of tab20, the strong ones first, without the greys
GREY = 15  # of tab20, for the rarest labels where there are more than colours
NAMED = 40  # clients whose names fit beside their bars in the picture


def table(dataset: Dataset, examples: Mapping[str, Sequence[Example]] | None = None) -> Table:
    """A row for each client: its examples, tokens (if `examples` are given), most frequent label, and a bar a label.

    Bars are in the caption's order, relative to the client's most frequent label; a dot is none of it.
    """
    counts = {name: Counter(labels) for name, labels in dataset.labels.items()}
    labels = _by_frequency(counts)
    shown = list(counts)[: ROWS if len(counts) > ROWS + 1 else None]
    rest = list(counts)[len(shown) :]
    held = dataset.clients if examples is None else examples

    def sizes(names: Sequence[str]) -> list[str]:
        numbers = [sum(len(held[name]) for name in names)]
        if examples is not None:
            numbers.append(sum(len(example.tokens) for name in names for example in examples[name]))
        return [f"{number:,}" for number in numbers]

    out = Table(title="Who holds what", caption=Text("labels: " + _listed(labels)))
    out.add_column("client", no_wrap=True)
    for heading in ("examples", "tokens") if examples is not None else ("examples",):
        out.add_column(heading, justify="right", no_wrap=True)
    out.add_column("most frequent", no_wrap=True)
    out.add_column("labels", no_wrap=True)
    for name in shown:
        label, most = counts[name].most_common(1)[0]
        share = f"{100 * most / counts[name].total():3.0f} % {_short(label, 16)}"
        out.add_row(Text(_short(name, 24)), *sizes([name]), Text(share), _bars(counts[name], labels[:LABELS]))
    if rest:
        out.add_row(f"{len(rest)} more", *sizes(rest), style="dim")
    return out


def forms(dataset: Dataset, tokenizer: Tokenizer, config: DataConfig) -> str:
    """How the clients' records were read: `conversations in messages, with the model's chat template`."""
    found: dict[str, dict[str, None]] = {}
    for name, records in dataset.clients.items():
        for record in records:
            found.setdefault(described(record, tokenizer, config), {})[name] = None
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{words} ({listed(names, 8)})" for words, names in found.items())


def picture(dataset: Dataset, path: Path | str) -> None:
    """A PNG of stacked bars, a client each, in the number of its training records by label."""
    from matplotlib import color_sequences
    from matplotlib.figure import Figure

    counts = {name: Counter(labels) for name, labels in dataset.labels.items()}
    labels = _by_frequency(counts)
    own, others = labels[: len(PALETTE)], labels[len(PALETTE) :]
    colours = color_sequences["tab20"]
    layers = [
        (label, [count[label] for count in counts.values()], colours[index])
        for label, index in zip(own, PALETTE, strict=False)
    ]
    if others:
        widths = [sum(count[label] for label in others) for count in counts.values()]
        layers.append((f"others ({len(others)})", widths, colours[GREY]))
    height = 5.0 if len(counts) > NAMED else max(1 + 0.28 * max(len(counts), 3), 0.6 + 0.19 * len(layers))
    figure = Figure(figsize=(8, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    left, thick = [0] * len(counts), 0.8 if len(counts) <= NAMED else 1.0
    for _, widths, colour in layers:
        axes.barh(range(len(counts)), widths, left=left, height=thick, color=colour)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    _dress(axes, list(counts))
    if len(layers) > 1:
        _legend(axes, [label for label, _, _ in layers])
    figure.savefig(path, format="png")


def _dress(axes: Axes, names: list[str]) -> None:
    axes.set_ylim(len(names) - 0.4, -0.6)
    if len(names) <= NAMED:
        axes.set_yticks(range(len(names)), [_short(name, 24) for name in names], parse_math=False)
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{len(names)} clients")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("training examples")
    axes.locator_params(axis="x", integer=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _legend(axes: Axes, labels: list[str]) -> None:
    keys = [str(number) for number in range(len(labels))]  # a label may begin with _, which matplotlib leaves out
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    legend = axes.legend(axes.containers, keys, frameon=False, fontsize="small", **place)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_parse_math(False)
        text.set_text(_short(label, 32))


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _by_frequency(counts: Mapping[str, Counter[str]]) -> list[str]:
    """All labels, the most frequent first, equal ones as they first occur."""
    return [label for label, _ in sum(counts.values(), Counter()).most_common()]


def _bars(count: Counter[str], labels: Sequence[str]) -> str:
    peak = max(count.values())
    return "".join(BARS[round((len(BARS) - 1) * count[label] / peak)] if count[label] else "·" for label in labels)


def _listed(labels: Sequence[str]) -> str:
    more = len(labels) - LABELS
    return ", ".join(labels[:LABELS]) + (f" and {more} more" if more > 0 else "")
