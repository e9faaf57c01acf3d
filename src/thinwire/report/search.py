"""A search over (rank, density) as a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from thinwire.report.live import megabytes, terminal


def print_search(found: Mapping[str, Any], folder: Path, console: Console | None = None) -> None:
    """Every run, the pairs that were compared, and what was chosen."""
    console = console or terminal(soft_wrap=True)
    table = Table(title=f"{found['method']}: rank and density, on the validation split")
    for name in ("rank", "density", "loss", "score, %", "both ways", ""):
        table.add_column(name, justify="right")
    for row in found["runs"]:
        taken = "chosen" if row == found["chosen"] else "on the way" if row_name(row) in path_of(found) else ""
        loss = "diverged" if row["loss"] is None or row["loss"] == float("inf") else f"{row['loss']:.4f}"
        score = "" if row["score"] is None else f"{100 * row['score']:.1f}"
        table.add_row(str(row["rank"]), f"{row['density']:.4g}", loss, score, megabytes(row["bytes"]), taken)
    console.print(table)
    for step in found["steps"]:
        pair = " or ".join(row_name(point) for point in step["pair"])
        taken = row_name(step["taken"]) if step["taken"] else "stays"
        console.print(f"{row_name(step['start'])}: {pair} -> {taken} ({step['why']})", highlight=False)
    console.print(f"all runs: {folder}   figures: {folder}/search.json   picture: {folder}/search.png", highlight=False)


def picture(found: Mapping[str, Any], path: Path) -> None:
    """A PNG of loss against bytes, a point a run, a line a rank, and the way that the search took."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    rows = [row for row in found["runs"] if row["loss"] is not None and row["loss"] != float("inf")]
    for rank in sorted({row["rank"] for row in rows}):
        own = sorted((row for row in rows if row["rank"] == rank), key=lambda row: row["bytes"])
        axes.plot([row["bytes"] / 1e6 for row in own], [row["loss"] for row in own], "o-", label=f"rank {rank}")
        for row in own:
            where = (row["bytes"] / 1e6, row["loss"])
            axes.annotate(f"{row['density']:.3g}", where, xytext=(4, 4), textcoords="offset points", fontsize=8)
    way = [row for name in path_of(found) for row in rows if row_name(row) == name]
    axes.plot([row["bytes"] / 1e6 for row in way], [row["loss"] for row in way], "k--", linewidth=1, label="way taken")
    axes.set_xscale("log")
    axes.set_xlabel("megabytes, both ways (points: density)")
    axes.set_ylabel("validation loss, nats")
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    figure.savefig(path, format="png")


def path_of(found: Mapping[str, Any]) -> list[str]:
    """The configurations from the first to the chosen one."""
    steps = found["steps"]
    taken = [step["taken"] for step in steps if step["taken"]]
    return [row_name(steps[0]["start"] if steps else found["chosen"]), *map(row_name, taken)]


def row_name(row: Mapping[str, Any]) -> str:
    return f"({row['rank']}, {row['density']:.4g})"
