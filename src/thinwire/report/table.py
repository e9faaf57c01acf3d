"""The table at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from thinwire.report.live import megabytes, terminal

PERSONAL = {"personal": "personal", "fused": "fused", "tuned": "tuned locally"}
WORDS = {"before": "before", "own": "own specialist", "alone": "alone (mean)", "after": "federated", **PERSONAL}
WORDS_OF = {
    "score": "exact match, % of held-out examples",
    "token_accuracy": "tokens right, % of held-out tokens",
    "accuracy": "accuracy, %",
    "macro_f1": "macro F1, %",
    "loss": "loss, nats",
}
OVER_CLIENTS = {"mean": "mean", "worst_decile": "worst decile", "spread": "spread (standard deviation)"}
ROWS = 30
"""Most domains with a row of their own."""


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Scores and losses by domain, bytes against dense FedIT, and where everything lies."""
    console = console or terminal(soft_wrap=True)
    console.print(scores(summary))
    console.print(traffic(summary))
    if summary.get("privacy"):
        console.print(guarantee(summary["privacy"]), soft_wrap=True)
    if (export := summary.get("export")) and export["relative_error"]:
        console.print(f"adapter cut to rank {export['rank']}: relative error {export['relative_error']:.2g}")
    seconds, directory = summary["seconds"], summary["directory"]
    times = f"{seconds['total']:.0f} s: training {seconds['train']:.0f}, method {seconds['method']:.1f}"
    wire = f"(wire {seconds['wire']:.1f} over all threads)"
    console.print(f"{times} {wire}; {summary['threads']} threads, peak {summary['peak_rss_mb']:.0f} MB")
    places = {"adapter (PEFT)": "adapter", "summary": "summary.json", "metrics": "metrics.jsonl"}
    console.print("   ".join(f"{what}: {directory}/{name}" for what, name in places.items()))
    if summary["over_clients"]["clients"] and not by_domain(summary):
        console.print(f"every client's figures: {directory}/clients.json")
    if "alone" in next(iter(summary["score"].values())):
        console.print(
            "own: a domain's own specialist; alone: the mean over all specialists, each trained as long as the "
            "federated model. Scored on held-out examples.",
            style="dim",
        )


def guarantee(privacy: Mapping[str, Any]) -> str:
    """(epsilon, delta) in words, and why the run stopped if its budget did that."""
    epsilon, delta = f"epsilon {privacy['epsilon']:.3g}", f"delta {privacy['delta']:.0e}"
    text = f"privacy of one {privacy['protects']}: {epsilon} at {delta} ({privacy['neighbours']})"
    if not privacy["secret_seed"]:
        text += "; simulated: the noise follows from the run's seed"
    return f"{text}; stopped early: {privacy['stopped']}" if privacy["stopped"] else text


def scores(summary: Mapping[str, Any]) -> Table:
    """A row a domain (unless there are many), and the mean; likewise over clients where these are not domains."""
    title = f"{summary['method']}: {summary['clients']} clients, {summary['rounds']} rounds"
    per = "" if "macro_f1" in summary else " per token"
    table = Table(title=title, caption=" | ".join(WORDS_OF[name] for name in shown(summary)) + per)
    columns = [name for name in WORDS if any(name in row for row in summary["score"].values())]
    table.add_column("domain")
    for name in columns:
        table.add_column(WORDS[name], justify="right", style="bold" if name == "after" else None)
    domains = list(summary["score"])
    few = len(domains) <= ROWS
    for domain in domains if few else []:
        ends = domain == domains[-1]
        table.add_row(domain, *(cell(summary, domain, name) for name in columns), end_section=ends)
    if len(domains) > 1:
        label = "mean" if few else f"mean of {len(domains)} domains (each: summary.json)"
        table.add_row(label, *(cell(summary, "mean", name) for name in columns))
    over = summary["over_clients"]
    if over["clients"] and not by_domain(summary):
        for name, words in OVER_CLIENTS.items():
            label = f"{over['clients']} clients: {words}" if name == "mean" else words
            table.add_row(label, *(client_cell(summary, name, column) for column in columns))
    return table


def by_domain(summary: Mapping[str, Any]) -> bool:
    """Whether every domain is a client's own, so that the rows of the domains are the clients'."""
    return summary["clients"] <= len(summary["score"])


def shown(summary: Mapping[str, Any]) -> list[str]:
    """The metrics of a cell; token accuracy in place of exact match where answers are too long to be matched whole."""
    if "macro_f1" in summary:
        return ["accuracy", "macro_f1", "loss"]
    matched = any(value for row in summary["score"].values() for value in row.values())
    return ["score" if matched else "token_accuracy", "loss"]


def cell(summary: Mapping[str, Any], domain: str, column: str) -> str:
    """The metrics of one domain (or their mean over those that have the column)."""
    return joined({name: figure(summary[name], domain, column) for name in shown(summary)})


def client_cell(summary: Mapping[str, Any], statistic: str, column: str) -> str:
    """The metrics' mean, worst decile or spread over clients."""
    over = summary["over_clients"]
    return joined({name: over[name].get(column, {}).get(statistic) for name in shown(summary)})


def joined(figures: Mapping[str, float | None]) -> str:
    """Figures of one cell, shares in per cent; empty if one is unknown."""
    known = {name: value for name, value in figures.items() if value is not None}
    texts = (f"{value:.3f}" if name == "loss" else f"{100 * value:.0f}" for name, value in known.items())
    return " | ".join(texts) if len(known) == len(figures) else ""


def figure(rows: Mapping[str, Mapping[str, float]], domain: str, column: str) -> float | None:
    if domain != "mean":
        return rows[domain].get(column)
    known = [row[column] for row in rows.values() if column in row]
    return sum(known) / len(known) if known else None


def traffic(summary: Mapping[str, Any]) -> Table:
    """Bytes both ways, as packed, against dense bfloat16 FedIT in the same run."""
    table = Table(title="traffic (length of what was packed)")
    for name in ("up", "down", "both ways", "dense bfloat16 FedIT", "reduction"):
        table.add_column(name, justify="right")
    up, down, dense = summary["bytes_up"], summary["bytes_down"], summary["bytes_dense_bf16"]
    reduction = f"{summary['reduction']:.1f} x less" if summary["reduction"] else "nothing travels"
    table.add_row(megabytes(up), megabytes(down), megabytes(up + down), megabytes(dense), reduction)
    return table
