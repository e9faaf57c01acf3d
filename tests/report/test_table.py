"""The table at the end of a run."""

import io

import pytest
from rich.console import Console

from thinwire.report.live import megabytes
from thinwire.report.table import print_summary


def summary(exact: float) -> dict:
    rows = {name: {"before": 0.0, "own": exact, "alone": exact / 2, "after": exact} for name in ("code", "law")}
    shares = {name: dict.fromkeys(row, 0.25) for name, row in rows.items()}
    losses = {name: dict.fromkeys(row, 1.5) for name, row in rows.items()}
    figures = {"score": rows, "token_accuracy": shares, "loss": losses, "bytes_up": 1000, "bytes_down": 2000}
    run = {"method": "fedsrd", "clients": 2, "rounds": 3, "bytes_dense_bf16": 30000, "reduction": 10.0, "threads": 2}
    seconds = {"total": 3.0, "train": 2.0, "method": 0.1, "wire": 0.1, "eval": 0.2}
    return {**figures, **run, "seconds": seconds, "peak_rss_mb": 500.0, "directory": "runs/x"}


def printed(exact: float) -> str:
    out = io.StringIO()
    print_summary(summary(exact), Console(file=out, width=120))
    return out.getvalue()


def test_scores_by_domain_their_mean_and_the_traffic():
    text = printed(0.5)
    assert "exact match" in text
    assert text.count("50 | 1.500") == 6  # own and federated, of two domains and their mean
    assert "3.0 kB" in text
    assert "10.0 x less" in text


def test_answers_too_long_to_be_matched_whole_show_token_accuracy():
    text = printed(0.0)
    assert "exact match" not in text
    assert "tokens right" in text
    assert "25 | 1.500" in text


@pytest.mark.parametrize(("count", "words"), [(12, "12 B"), (3400, "3.4 kB"), (1.25e6, "1.25 MB"), (2e9, "2.00 GB")])
def test_bytes_in_words(count, words):
    assert megabytes(count) == words
