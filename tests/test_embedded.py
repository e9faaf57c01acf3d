"""The shipped base (size, offline loading, tokenizer, record, plain facts) and the script that trains it."""

import importlib.util
import json
import math
import random
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import thinwire.data.generator as generator
from scripts.plain import plain

FOLDER = Path(generator.__file__).parents[1] / "models" / "embedded"
SCRIPT = Path(__file__).parents[1] / "scripts" / "train_base.py"
TEXT_BOUND, PLAIN_BOUND, PLAIN_TOKEN_BOUND = 1.1, 0.3, 1.0  # nats a byte, nats a byte, nats a token


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER, local_files_only=True, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_base", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(SCRIPT.parent))  # as Python does for a script
    spec.loader.exec_module(module)
    return module


def test_the_folder_is_under_8_million_bytes_and_complete():
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert sum(files.values()) < 8_000_000
    expected = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "training.json"}
    assert expected <= set(files)


def test_the_model_is_a_small_tied_llama(model, tokenizer):
    config = model.config
    assert (config.model_type, config.hidden_size, config.num_hidden_layers) == ("llama", 256, 4)
    assert (config.num_attention_heads, config.num_key_value_heads, config.intermediate_size) == (4, 2, 640)
    assert config.vocab_size == len(tokenizer) == 4096
    assert config.max_position_embeddings == 1024
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert all(tensor.dtype == torch.bfloat16 for tensor in load_file(FOLDER / "model.safetensors").values())


def test_special_tokens_and_chat_template(tokenizer, model):
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|pad|>")
    assert (model.config.eos_token_id, model.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    messages = [{"role": "user", "content": "Hi."}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "### Instruction:\nHi.\n\n### Response:\n"


def test_tokenization_splits_digits_and_goes_there_and_back(tokenizer):
    assert [tokenizer.decode(i) for i in tokenizer("2047").input_ids] == ["2", "0", "4", "7"]
    for text in ("def f(x): return x + 12", "  two  spaces\n\tand é, 漢字, 🙂 ", "Gout is treated with allopurinol."):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_training_record_has_finite_and_low_held_out_losses(model):
    record = json.loads((FOLDER / "training.json").read_text())
    assert record["parameters"] == sum(p.numel() for p in model.parameters())
    assert record["tokens"] > 0
    assert record["seconds"] > 0
    assert len(record["text_sha256"]) == 64
    for part, bound in (("held_out_text", TEXT_BOUND), ("held_out_plain", PLAIN_BOUND)):
        assert math.isfinite(record[part]["nats_per_token"])
        assert 0 < record[part]["nats_per_byte"] < bound


@torch.inference_mode()
def test_plain_lines_never_trained_on_have_a_low_loss(model, tokenizer):
    ids = torch.tensor([tokenizer("\n".join(plain(30, -2))).input_ids[:256]])
    assert model(input_ids=ids, labels=ids).loss.item() < PLAIN_TOKEN_BOUND


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("7 + 10 =", " 17"),
        ("9 * 8 =", " 72"),
        ("25 - 10 =", " 15"),
        ("6 * 7 =", " 42"),
        ("Gout is treated with", " allopurinol."),
        ("The usual drug for migraine is", " sumatriptan."),
        ("In Python, x plus 4 is", " x + 4."),
        ("There were 300 dollars at 7 percent for one year. The interest is", " 21 dollars."),
    ],
)
def test_greedy_continuation_of_plain_facts(model, tokenizer, start, end):
    ids = tokenizer("\n" + start, return_tensors="pt").input_ids
    wanted = tokenizer(end).input_ids
    out = model.generate(input_ids=ids, max_new_tokens=len(wanted), do_sample=False)
    assert tokenizer.decode(out[0, ids.shape[1] :]) == end


def tiny_text(folder: Path) -> Path:
    rng = random.Random(0)
    words = ["the", "river", "ran", "past", "a", "quiet", "town", "where", "seven", "boats", "lay", "still"]
    documents = [" ".join(rng.choice(words) for _ in range(120)) for _ in range(30)]
    path = folder / "tiny.txt"
    path.write_text("\n<|endoftext|>\n".join(documents))
    return path


def run(script, text: Path, out: Path, *more: str) -> None:
    threads = torch.get_num_threads()
    size = "--hidden 32 --layers 1 --vocab 400 --length 32 --batch 4 --tokens 3000 --threads 1"
    try:
        script.main(["--text", str(text), "--out", str(out), *size.split(), *more])
    finally:
        torch.set_num_threads(threads)


def test_training_runs_and_a_resumed_run_gives_the_same_model(script, tmp_path):
    text = tiny_text(tmp_path)
    run(script, text, tmp_path / "whole")
    run(script, text, tmp_path / "parts", "--stop-after", "10")
    assert (tmp_path / "parts" / "checkpoint.safetensors").exists()
    assert not (tmp_path / "parts" / "training.json").exists()
    run(script, text, tmp_path / "parts", "--resume")
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not (tmp_path / "parts" / "checkpoint.safetensors").exists()
    runs = json.loads((tmp_path / "parts" / "training.json").read_text())["runs"]
    assert [run["from_step"] for run in runs] == [0, 10]
    AutoModelForCausalLM.from_pretrained(tmp_path / "parts", local_files_only=True)
    AutoTokenizer.from_pretrained(tmp_path / "parts", local_files_only=True)


def test_the_record_of_a_run_names_no_folder_and_its_numbers_add_up(script, tmp_path):
    run(script, tiny_text(tmp_path), tmp_path / "out", "--precision", "float32")
    text = (tmp_path / "out" / "training.json").read_text()
    record = json.loads(text)
    assert str(tmp_path) not in text
    assert record["tokens"] == record["steps"] * 4 * 32 >= 3000
    assert record["runs"] == [{"from_step": 0, "tokens": 3000, "threads": 1}]
    assert record["tokens_per_second"] == pytest.approx(record["tokens"] / record["seconds"], rel=0.1)
    assert all(math.isfinite(record[part]["nats_per_token"]) for part in ("held_out_text", "held_out_plain"))


def test_the_schedule_rises_holds_and_falls_to_zero(script, tmp_path):
    args = script.parse(["--text", str(tiny_text(tmp_path)), "--out", "out", "--lr", "0.003"])
    rates = [script.rate(step, 1000, args) for step in range(1001)]
    assert rates[0] < rates[10] < rates[20] == rates[500] == 0.003 > rates[800] > rates[999] > rates[1000] == 0


def test_bad_arguments_say_what_to_do(script, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("THINWIRE_DATA", raising=False)
    with pytest.raises(SystemExit):
        script.parse(["--out", "out"])
    assert "THINWIRE_DATA" in capsys.readouterr().err
    (tmp_path / "one.txt").write_text("only one document")
    with pytest.raises(ValueError, match="at least 2 documents"):
        run(script, tmp_path / "one.txt", tmp_path / "out")


def test_help_teaches(script, capsys):
    with pytest.raises(SystemExit):
        script.parse(["--help"])
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("--resume", "--plain-share", "examples", "training.json"))
