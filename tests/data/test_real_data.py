"""The project's prepared data, where THINWIRE_DATA says where it lies."""

import os
from collections import Counter

import pytest

from thinwire.data.config import DataConfig
from thinwire.data.encode import encode_all
from thinwire.data.load import load

pytestmark = pytest.mark.skipif("THINWIRE_DATA" not in os.environ, reason="THINWIRE_DATA is not set")


def test_four_domains_with_two_out_of_domain(tokenizer):
    config = DataConfig(
        source="$THINWIRE_DATA/instruct",
        clients=("code", "medical", "finance", "math"),
        evaluate=("law", "general"),
        max_length=1024,
        train_limit=200,
    )
    data = load(config, 0)
    assert list(data.tests) == ["code", "medical", "finance", "math", "law", "general"]
    assert {len(rows) for rows in data.tests.values()} <= {400, 500}
    assert all(len(rows) == 200 for rows in data.clients.values())
    found = encode_all(data, tokenizer, config)
    skipped = Counter({name: count for counts in found.skipped.values() for name, count in counts.items()})
    assert all(len(rows) + skipped[name] == 200 for name, rows in found.clients.items())
    assert all(max(map(len, (row.tokens for row in rows))) <= 1024 for rows in found.clients.values())


def test_all_domains_of_the_folder_are_clients_by_default_and_the_exec_file_is_not():
    assert set(load(DataConfig(source="$THINWIRE_DATA/instruct"), 0).clients) == {
        "code", "finance", "general", "law", "math", "medical",
    }  # fmt: skip


def test_news_by_dirichlet_over_hundreds_of_clients(tokenizer):
    fields = {"task": "sequence", "partition": "dirichlet", "count": 350, "alpha": 0.1, "max_length": 128}
    data = load(DataConfig(source="$THINWIRE_DATA/classify", clients=("20news",), **fields), 0)
    assert sum(map(len, data.clients.values())) == 11_239
    assert min(map(len, data.clients.values())) == 1
    assert len(data.classes) == 20
    assert None not in data.owners["20news"]
    assert 200 < len(set(data.owners["20news"])) <= 350


@pytest.mark.long
def test_speakers_by_column_with_the_tail_of_each_held_out(tokenizer):
    source = "$THINWIRE_DATA/byclient/shakespeare.jsonl.gz"
    fields = {"partition": "column", "column": "client", "template": "plain", "held_out": "tail"}
    config = DataConfig(source=source, **fields)
    data = load(config, 0)
    assert len(data.clients) == len(data.tests["shakespeare"]) == 805
    assert data.owners["shakespeare"] == [record["client"] for record in data.tests["shakespeare"]]
    found = encode_all(data, tokenizer, config)
    assert not found.skipped
    assert sum(map(len, found.clients.values())) > 20_000
