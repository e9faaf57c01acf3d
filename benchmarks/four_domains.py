"""Every method on recipes/four_domains.toml: learning rate by validation, then three seeds on test data.

Each method gets the same grid of learning rates, scored on the validation split; test data is read once, by the runs at
the chosen rate. Every run is `thinwire run` in a process of its own, one thread each, and is skipped if it is finished,
so the benchmark can be stopped and started again. Needs THINWIRE_DATA.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
METHODS: dict[str, list[str]] = {
    "fedit": ["method.name=fedit"],
    "ffa-lora": ["method.name=ffa-lora"],
    "fedsrd": ["method.name=fedsrd"],
    "fedsrd-e": ["method.name=fedsrd-e"],
    "fedsrd faithful": ["method.name=fedsrd", "method.faithful=true"],
    "local": ["method.name=local"],
    "centralised": ["method.name=centralised"],
}
TRAINED = ("code", "medical", "finance", "math")


def main() -> None:
    options = arguments()
    names = options.methods or list(METHODS)
    with ThreadPoolExecutor(options.parallel) as pool:
        grid = {
            (name, rate): pool.submit(play, options, name, rate, 0, "validation")
            for name in names
            for rate in options.rates
        }
        tuned = {key: future.result() for key, future in grid.items()}
        best = {name: min(options.rates, key=lambda rate, name=name: mean_loss(tuned[name, rate])) for name in names}
        finals = {
            (name, seed): pool.submit(play, options, name, best[name], seed, "test")
            for name in names
            for seed in options.seeds
        }
        tested = {key: future.result() for key, future in finals.items()}
    lines = [
        *({"kind": "grid", "method": n, "learning_rate": r, "loss": mean_loss(s)} for (n, r), s in tuned.items()),
        *(result(name, best[name], [tested[name, seed] for seed in options.seeds]) for name in names),
    ]
    for line in lines:
        print(json.dumps(line), flush=True)
    (options.results / "four_domains.json").write_text(json.dumps(lines, indent=1) + "\n")
    curves = {name: curve(folder(options, name, best[name], options.seeds[0], "test")) for name in names}
    plot({name: points for name, points in curves.items() if points}, lines, options.results / "four_domains.png")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/four_domains"), help="where the run directories go")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "four_domains.toml")
    parser.add_argument("--methods", nargs="*", choices=METHODS)
    parser.add_argument("--rates", nargs="*", type=float, default=[1e-3, 2.5e-3, 6e-3, 1.5e-2])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--parallel", type=int, default=4, help="runs at a time, one thread each")
    return parser.parse_args()


def folder(options: argparse.Namespace, name: str, rate: float, seed: int, split: str) -> Path:
    return options.runs / f"{name.replace(' ', '-')}-{rate:g}-{seed}-{split}"


def play(options: argparse.Namespace, name: str, rate: float, seed: int, split: str) -> dict[str, Any]:
    """The summary of one run; of a run that diverged, what it says of itself."""
    directory = folder(options, name, rate, seed, split)
    if not (directory / "summary.json").exists():
        changes = [*METHODS[name], f"train.learning_rate={rate}", f"run.seed={seed}", f"data.split={split}"]
        drawn = split == "test" and seed == options.seeds[0]
        changes += ["run.threads=1", *([] if drawn else ["run.evaluate_every=0"])]
        command = [sys.executable, "-m", "thinwire.cli", "run"]
        if (directory / "config.json").exists():
            command += ["--resume", str(directory)]
        else:
            command += [
                str(options.recipe),
                "--output",
                str(directory),
                *(part for c in changes for part in ("--set", c)),
            ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            return {"failed": done.stderr.strip().splitlines()[-1:]}
        print(f"{directory.name} done", file=sys.stderr, flush=True)
    return json.loads((directory / "summary.json").read_text())


def mean_loss(summary: dict[str, Any], domains: tuple[str, ...] = TRAINED, column: str = "after") -> float:
    """Mean loss over domains; infinite for a run that failed."""
    if "failed" in summary:
        return float("inf")
    return statistics.fmean(summary["loss"][domain][column] for domain in domains)


def result(name: str, rate: float, summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread over the seeds."""
    losses = [mean_loss(summary) for summary in summaries]
    domains = list(summaries[0].get("loss", {}))
    outside = [mean_loss(summary, tuple(d for d in domains if d not in TRAINED)) for summary in summaries]
    sent = [summary.get("bytes_up", 0) + summary.get("bytes_down", 0) for summary in summaries]
    return {
        "kind": "result",
        "method": name,
        "learning_rate": rate,
        "seeds": len(summaries),
        "loss_before": mean_loss(summaries[0], column="before"),
        "loss": statistics.fmean(losses),
        "loss_spread": statistics.stdev(losses) if len(losses) > 1 else 0.0,
        "loss_out_of_domain": statistics.fmean(outside),
        "by_domain": {d: statistics.fmean(s["loss"][d]["after"] for s in summaries) for d in domains},
        "megabytes": statistics.fmean(sent) / 1e6,
        "bytes_up": statistics.fmean(s.get("bytes_up", 0) for s in summaries),
        "bytes_down": statistics.fmean(s.get("bytes_down", 0) for s in summaries),
        "reduction": summaries[0].get("reduction"),
    }


def curve(directory: Path) -> list[tuple[float, float]]:
    """(megabytes so far, validation loss) of a run."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [((x["bytes_up"] + x["bytes_down"]) / 1e6, x["loss"]) for x in lines if "evaluation" in x]


def plot(curves: dict[str, list[tuple[float, float]]], lines: list[dict[str, Any]], path: Path) -> None:
    """Validation loss against bytes sent so far, and the references as levels."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, points in curves.items():
        axes.plot(
            *zip(*points, strict=True),
            marker="o",
            markersize=3,
            label=name,
            linestyle="--" if "faithful" in name else "-",
        )
    for line in lines:
        if line["kind"] == "result" and line["method"] in ("centralised", "local"):
            axes.axhline(line["loss"], color="grey", linewidth=0.8, linestyle=":")
            axes.annotate(
                f"{line['method']} (test)",
                (1, line["loss"]),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=8,
            )
    axes.set(
        xscale="log",
        xlabel="megabytes sent so far, both ways, as packed",
        ylabel="validation loss, mean of the six domains, nats per response token",
    )
    axes.set_title("Four domains, embedded base, each method at its best learning rate (seed 0)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
