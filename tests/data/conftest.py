"""A byte-level tokenizer (a token a byte; 256 = <s>, 257 = </s>) and files to read."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    def make(start: bool = False, end: bool = False, chat: str | None = None) -> PreTrainedTokenizerFast:
        alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        core = Tokenizer(models.BPE(vocab=alphabet | {"<s>": 256, "</s>": 257}, merges=[]))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        if start or end:
            single = ("<s> " if start else "") + "$A" + (" </s>" if end else "")
            core.post_processor = processors.TemplateProcessing(single, special_tokens=[("<s>", 256), ("</s>", 257)])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
        tokenizer.chat_template = chat
        return tokenizer

    return make


@pytest.fixture(scope="session")
def chat() -> str:
    """A chat template."""
    return CHAT


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, list[dict[str, Any]]], Path]:
    """Write records as `name` under the test's folder, in the form that the name's suffix says."""

    def put(name: str, records: list[dict[str, Any]]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            pq.write_table(pa.Table.from_pylist(records), path)
            return path
        file = io.StringIO(newline="")
        if ".csv" in name or ".tsv" in name:
            writer = csv.DictWriter(file, records[0], delimiter="\t" if ".tsv" in name else ",")
            writer.writeheader()
            writer.writerows(records)
        elif ".json" in name and ".jsonl" not in name:
            json.dump(records, file, indent=1)
        else:
            file.writelines(json.dumps(record) + "\n" for record in records)
        pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
        path.write_bytes(pack(file.getvalue().encode()))
        return path

    return put


@pytest.fixture(scope="session")
def records() -> Callable[..., list[dict[str, Any]]]:
    def make(count: int, name: str = "q") -> list[dict[str, Any]]:
        return [{"instruction": f"{name} {i}?", "response": f"{name} is {i}"} for i in range(count)]

    return make
