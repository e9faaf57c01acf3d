"""Compare methods on one recipe: learning rate by validation, then several seeds on test data; JSON lines and a plot.

`python benchmarks/study.py benchmarks/studies/20news.toml`. A study names a recipe, settings for all, cases (settings
of each), rates, seeds and the metric. Every case gets the same grid of learning rates, scored on the validation split
with the first seed, unless its rate is given (`chosen`); test data is read once, by the runs at the chosen rate. Every
run is `thinwire run` in a process of its own, one thread each, and is skipped if it is finished, so a study can be
stopped and started again. Bytes are what the runs counted. With `curves` the picture shows the first seed's loss on
validation data by bytes so far, round by round. Needs THINWIRE_DATA.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study_plot import plot, plot_curves

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Study:
    """over: whether figures are means over `domains` (all) or over clients. columns: case -> column, else `after`."""

    title: str
    recipe: str
    cases: dict[str, list[str]]
    metric: str
    settings: list[str] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    over: str = "domains"
    domains: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    chosen: dict[str, float] = field(default_factory=dict)
    curves: bool = False

    @property
    def better(self) -> Any:
        return min if self.metric == "loss" else max

    def figure(self, summary: dict[str, Any], case: str, metric: str | None = None, statistic: str = "mean") -> float:
        """A case's figure; nan for a run that failed."""
        if "failed" in summary:
            return math.nan
        metric, column = metric or self.metric, self.columns.get(case, "after")
        if self.over == "clients":
            return float(summary["over_clients"][metric][column][statistic])
        domains = self.domains or list(summary[metric])
        return statistics.fmean(summary[metric][domain][column] for domain in domains)


def main() -> None:
    options = arguments()
    study = Study(**tomllib.loads(options.study.read_text()))
    names = options.cases or list(study.cases)
    with ThreadPoolExecutor(options.parallel) as pool:
        open_cases = [name for name in names if name not in study.chosen]
        grid = {
            (name, rate): pool.submit(play, options, study, name, rate, study.seeds[0], "validation")
            for rate in study.rates
            for name in open_cases
        }
        tried = {key: study.figure(future.result(), key[0]) for key, future in grid.items()}
        best = {name: study.chosen.get(name) or best_rate(study, name, tried) for name in names}
        finals = {
            (name, seed): pool.submit(play, options, study, name, best[name], seed, "test")
            for seed in study.seeds
            for name in names
        }
        tested = {key: future.result() for key, future in finals.items()}
    lines = [
        *({"kind": "grid", "case": name, "rate": rate, study.metric: value} for (name, rate), value in tried.items()),
        *(result(study, name, best[name], [tested[name, seed] for seed in study.seeds]) for name in names),
    ]
    for line in lines:
        print(json.dumps(line), flush=True)
    stem = options.results / options.study.stem
    stem.with_suffix(".json").write_text(json.dumps(lines, indent=1) + "\n")
    results = [line for line in lines if line["kind"] == "result"]
    if study.curves:
        first = {name: curve(folder(options, name, best[name], study.seeds[0], "test")) for name in names}
        plot_curves(study.title, {name: points for name, points in first.items() if points}, stem.with_suffix(".png"))
    else:
        plot(study.title, study.metric, results, stem.with_suffix(".png"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run directories go")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--cases", nargs="*", help="only these")
    parser.add_argument("--parallel", type=int, default=4, help="runs at a time, one thread each")
    return parser.parse_args()


def best_rate(study: Study, name: str, tried: dict[tuple[str, float], float]) -> float:
    """The rate with the best figure on the validation split; the smallest if all failed."""
    known = {rate: value for (case, rate), value in tried.items() if case == name and math.isfinite(value)}
    return study.better(known, key=known.__getitem__) if known else min(study.rates)


def folder(options: argparse.Namespace, name: str, rate: float, seed: int, split: str) -> Path:
    case = name.replace(" ", "-").replace("/", "_")
    return options.runs / options.study.stem / f"{case}-{rate:g}-{seed}-{split}"


def curve(directory: Path) -> list[tuple[float, float]]:
    """(megabytes so far, validation loss) of a run."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [((x["bytes_up"] + x["bytes_down"]) / 1e6, x["loss"]) for x in lines if "evaluation" in x]


def play(options: argparse.Namespace, study: Study, name: str, rate: float, seed: int, split: str) -> dict[str, Any]:
    """The summary of one run; of a run that failed, what it says of itself."""
    directory = folder(options, name, rate, seed, split)
    if not (directory / "summary.json").exists():
        changes = [*study.settings, *study.cases[name], f"train.learning_rate={rate}", f"run.seed={seed}"]
        drawn = study.curves and split == "test" and seed == study.seeds[0]
        changes += [f"data.split={split}", "run.threads=1", *([] if drawn else ["run.evaluate_every=0"])]
        command = [sys.executable, "-m", "thinwire.cli", "run"]
        if (directory / "config.json").exists():
            command += ["--resume", str(directory)]
        else:
            sets = [part for change in changes for part in ("--set", change)]
            command += [str(ROOT / study.recipe), "--output", str(directory), *sets]
        done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()[-1:]
            print(f"{directory.name} failed: {reason}", file=sys.stderr, flush=True)
            return {"failed": reason}
        print(f"{directory.name} done", file=sys.stderr, flush=True)
    return json.loads((directory / "summary.json").read_text())


def result(study: Study, name: str, rate: float, summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread over the seeds."""
    done = [summary for summary in summaries if "failed" not in summary]
    line: dict[str, Any] = {"kind": "result", "case": name, "rate": rate, "seeds": len(done)}
    if not done:
        return line | {"failed": summaries[0]["failed"]}
    metrics = [metric for metric in ("score", "accuracy", "macro_f1", "token_accuracy", "loss") if metric in done[0]]
    for metric in metrics:
        values = [study.figure(summary, name, metric) for summary in done]
        line[metric] = statistics.fmean(values)
        line[f"{metric}_spread"] = statistics.stdev(values) if len(values) > 1 else 0.0
        if study.over == "clients":
            worst = [study.figure(summary, name, metric, "worst_decile") for summary in done]
            line[f"{metric}_worst_decile"] = statistics.fmean(worst)
    privacy = done[0].get("privacy")
    domains = list(done[0]["loss"])
    return line | {
        "by_domain": {name: statistics.fmean(each["loss"][name]["after"] for each in done) for name in domains},
        "reduction": done[0]["reduction"],
        "megabytes_up": statistics.fmean(summary["bytes_up"] for summary in done) / 1e6,
        "megabytes_down": statistics.fmean(summary["bytes_down"] for summary in done) / 1e6,
        **({"epsilon": privacy["epsilon"]} if privacy else {}),
    }


if __name__ == "__main__":
    main()
