"""The project's prepared data, where THINWIRE_DATA says where it lies."""

import os

import pytest

from thinwire.config import DataConfig
from thinwire.data.load import encode_all, load

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
    clients, _, skipped = encode_all(data, tokenizer, config)
    assert all(len(rows) + skipped.get(name, 0) == 200 for name, rows in clients.items())
    assert all(max(map(len, (row.tokens for row in rows))) <= 1024 for rows in clients.values())


def test_all_domains_of_the_folder_are_clients_by_default_and_the_exec_file_is_not():
    assert set(load(DataConfig(source="$THINWIRE_DATA/instruct"), 0).clients) == {
        "code", "finance", "general", "law", "math", "medical",
    }  # fmt: skip


def test_news_by_dirichlet():
    fields = {"instruction": "text", "response": "label", "column": "label"}
    config = DataConfig(source="$THINWIRE_DATA/classify", clients=("20news",), partition="dirichlet", count=8, **fields)
    data = load(config, 0)
    assert sum(map(len, data.clients.values())) == 11_239
    assert len({label for labels in data.labels.values() for label in labels}) == 20


def test_speakers_by_column(tokenizer):
    source = "$THINWIRE_DATA/byclient/shakespeare.jsonl.gz"
    config = DataConfig(source=source, partition="column", column="client", template="plain")
    data = load(config, 0)
    assert sum(map(len, data.clients.values())) + len(data.tests["shakespeare"]) == 805
    assert not encode_all(data, tokenizer, config)[2]
