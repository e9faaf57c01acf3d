"""Train the embedded base: a 4,096-token byte-level BPE tokenizer and a 3.8M-parameter Llama, on a CPU."""

import argparse
import gzip
import hashlib
import itertools
import json
import math
import os
import platform
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from plain import plain as plain_lines
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHECKPOINT = "checkpoint.safetensors"
END, PAD = "<|endoftext|>", "<|pad|>"
PLAIN_LINES_A_DOCUMENT = 16
HELD_OUT_SEED = -1
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}### Response:\n{{ message['content'] }}" + END + "\n\n"
    "{% else %}### Instruction:\n{{ message['content'] }}\n\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}"
)
EPILOG = """
what it does
  1. reads the text (documents separated by a line <|endoftext|>), holds out 1 % of the documents by a hash
  2. trains the tokenizer (digits are split one by one) and encodes the text
  3. trains on packed sequences; --plain-share of the tokens are plain() lines, drawn anew in every epoch
  4. writes the model (bfloat16), the tokenizer and training.json (losses, speed, versions, data sha256) to --out

--resume needs the arguments of the first run; only --tokens (while the rate has not begun to fall), --threads and
--checkpoint-seconds may change. training.json lists the runs.
On a machine with other busy programs set OMP_WAIT_POLICY=PASSIVE: threads then sleep instead of spinning while they
wait for each other, which made training 17 times as fast beside six busy processes on four cores.

examples
  THINWIRE_DATA=data python scripts/train_base.py --tokens 20000000 --threads 3 --out base
  THINWIRE_DATA=data python scripts/train_base.py --tokens 20000000 --threads 3 --out base --resume
  python scripts/train_base.py --text notes.txt --tokens 20000 --hidden 32 --layers 1 --vocab 400 --out tiny
"""


@dataclass(frozen=True)
class Corpus:
    """Encoded documents (uint16 ids, each ending in the end token) and the held-out ones with their bytes."""

    documents: list[np.ndarray]
    held_out: np.ndarray
    held_out_bytes: int
    sha256: str

    @property
    def tokens(self) -> int:
        return sum(map(len, self.documents))


@dataclass
class Progress:
    """Steps and seconds of training so far, and the runs (from which step, tokens, threads) that made them."""

    step: int = 0
    seconds: float = 0.0
    runs: list[dict[str, int]] = field(default_factory=list)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments; --text falls back to $THINWIRE_DATA/pretrain/text.txt.gz."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for model, tokenizer, training.json and checkpoint")
    add("--text", type=Path, help="text or .gz file (default: $THINWIRE_DATA/pretrain/text.txt.gz)")
    add("--tokens", type=int, default=20_000_000, help="tokens to train on; the schedule spans them (default: 20M)")
    add("--threads", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="CPU threads (default: all but one)")
    add("--seed", type=int, default=0, help="seed of weights, order and plain lines (default: 0)")
    add("--resume", action="store_true", help="go on from --out/checkpoint.safetensors (see below)")
    add("--checkpoint-seconds", type=float, default=240, help="time between checkpoints (default: 240)")
    add("--stop-after", type=int, help="stop with a checkpoint after this many steps, for a later --resume")
    add("--precision", choices=("float32", "bfloat16"), default="bfloat16", help="autocast type (default: bfloat16)")
    add("--batch", type=int, default=16, help="sequences a step (default: 16)")
    add("--length", type=int, default=256, help="tokens a sequence (default: 256)")
    add("--lr", type=float, default=3e-3, help="peak learning rate (default: 0.003)")
    add("--warmup", type=float, default=0.02, help="share of the steps with rising rate (default: 0.02)")
    add("--decay", type=float, default=0.3, help="last share of the steps, rate falls to 0 (default: 0.3)")
    add("--plain-share", type=float, default=0.2, help="share of tokens from plain() lines (default: 0.2)")
    add("--vocab", type=int, default=4096, help="tokenizer size (default: 4096)")
    add("--hidden", type=int, default=256, help="model width; the MLP has 2.5 times as much (default: 256)")
    add("--layers", type=int, default=4, help="model layers (default: 4)")
    args = parser.parse_args(argv)
    if args.text is None:
        if "THINWIRE_DATA" not in os.environ:
            parser.error("give --text FILE, or set THINWIRE_DATA to the folder that has pretrain/text.txt.gz")
        args.text = Path(os.environ["THINWIRE_DATA"]) / "pretrain" / "text.txt.gz"
    if not args.text.is_file():
        parser.error(f"--text {args.text}: no such file")
    return args


def say(message: str) -> None:
    """Print one progress line at once."""
    print(time.strftime("%H:%M:%S"), message, flush=True)


def read_documents(path: Path) -> tuple[list[str], list[str], str]:
    """Training documents, held-out documents (1 % by hash, at least one) and the sha256 of the file."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    documents = [part.strip("\n") for part in text.split(END) if part.strip()]
    if len(documents) < 2:
        raise ValueError(f"--text {path}: needs at least 2 documents separated by a line {END}, has {len(documents)}")
    ordered = sorted(documents, key=lambda d: hashlib.blake2b(d.encode(), digest_size=8).digest())
    held = max(1, len(documents) // 100)
    return ordered[held:], ordered[:held], hashlib.sha256(raw).hexdigest()


def train_tokenizer(documents: list[str], args: argparse.Namespace) -> PreTrainedTokenizerFast:
    """Byte-level BPE over text and plain lines with single digits and a chat template."""
    tokenizer = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=args.vocab,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    lines = plain_lines(sum(map(len, documents)) // 400 + 100, args.seed)
    tokenizer.train_from_iterator([*documents, "\n".join(lines)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> list[np.ndarray]:
    """One uint16 array a document, ending in the end token."""
    encoded = tokenizer.backend_tokenizer.encode_batch(documents, add_special_tokens=False)
    return [np.array([*e.ids, tokenizer.eos_token_id], dtype=np.uint16) for e in encoded]


def plain_documents(tokens: int, tokenizer: PreTrainedTokenizerFast, seed: int) -> tuple[list[np.ndarray], int]:
    """Documents of plain lines with about this many tokens in all, and their bytes."""
    tokens_a_line = len(encode(tokenizer, ["\n".join(plain_lines(1000, HELD_OUT_SEED))])[0]) / 1000
    lines = plain_lines(max(PLAIN_LINES_A_DOCUMENT, round(tokens / tokens_a_line)), seed)
    groups = range(0, len(lines), PLAIN_LINES_A_DOCUMENT)
    texts = ["\n".join(lines[i : i + PLAIN_LINES_A_DOCUMENT]) for i in groups]
    return encode(tokenizer, texts), sum(len(t.encode()) for t in texts)


def load_corpus(args: argparse.Namespace) -> tuple[PreTrainedTokenizerFast, Corpus]:
    """The tokenizer (from --out on --resume, else trained and saved there) and the encoded text."""
    documents, held_out, sha256 = read_documents(args.text)
    if args.resume:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out)
    else:
        tokenizer = train_tokenizer(documents, args)
        tokenizer.save_pretrained(args.out, save_jinja_files=False)
    held_bytes = sum(len(d.encode()) for d in held_out)
    corpus = Corpus(encode(tokenizer, documents), np.concatenate(encode(tokenizer, held_out)), held_bytes, sha256)
    say(f"text: {corpus.tokens:,} tokens in {len(documents):,} documents, {len(held_out)} documents held out")
    return tokenizer, corpus


def batches(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> Iterator[torch.Tensor]:
    """Endless batches [batch, length] of ids; every epoch has a new order and new plain lines."""
    for epoch in range(10**9):
        rng = random.Random(f"{args.seed}/{epoch}")
        wanted = int(corpus.tokens * args.plain_share / (1 - args.plain_share))
        plain = plain_documents(wanted, tokenizer, args.seed + epoch)[0] if args.plain_share else []
        documents = [*corpus.documents, *plain]
        rng.shuffle(documents)
        ids = np.concatenate(documents)
        rows = torch.from_numpy(ids[: len(ids) // args.length * args.length].astype(np.int64)).view(-1, args.length)
        if len(rows) < args.batch:
            raise ValueError(f"--batch {args.batch}: the text gives only {len(rows)} sequences of {args.length} tokens")
        rows = rows[rng.sample(range(len(rows)), len(rows))]
        yield from rows[: len(rows) // args.batch * args.batch].split(args.batch)


def build_model(tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> LlamaForCausalLM:
    """A Llama with random float32 weights and tied embeddings."""
    config = LlamaConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        intermediate_size=args.hidden * 5 // 2,
        num_hidden_layers=args.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(args.seed)
    return LlamaForCausalLM(config)


def build_optimizer(model: LlamaForCausalLM, lr: float) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)


def rate(step: int, steps: int, args: argparse.Namespace) -> float:
    """Learning rate: warmup, stable, then linear decay to 0 at the last step."""
    rise = (step + 1) / max(1, args.warmup * steps)
    fall = (steps - step) / max(1, args.decay * steps)
    return args.lr * min(1.0, rise, fall)


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, args: argparse.Namespace) -> torch.Tensor:
    """Mean next-token cross-entropy in nats over ids [batch, length]."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.precision == "bfloat16"):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())


@torch.inference_mode()
def held_out_loss(model: LlamaForCausalLM, ids: np.ndarray, size: int, args: argparse.Namespace) -> dict[str, float]:
    """Loss in nats per token and per byte over ids [tokens] that encode `size` bytes."""
    model.eval()
    rows = torch.from_numpy(ids.astype(np.int64)).split(args.length)
    rows = [row for row in rows if len(row) > 1]
    nats = sum(loss_of(model, row[None], args).item() * (len(row) - 1) for row in rows)
    model.train()
    a_token = nats / sum(len(row) - 1 for row in rows)
    return {
        "tokens": len(ids),
        "nats_per_token": round(a_token, 4),
        "nats_per_byte": round(a_token * len(ids) / size, 4),
    }


def named_state(model: LlamaForCausalLM, optimizer) -> dict[str, torch.Tensor]:
    """Every weight and every optimizer tensor by name; AdamW's are there once it has taken a step."""
    tensors = {f"model {name}": parameter.detach() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for kind, tensor in optimizer.state.get(parameter, {}).items():
            tensors[f"{kind} {name}"] = tensor
    return tensors


def save_checkpoint(args: argparse.Namespace, model: LlamaForCausalLM, optimizer, progress: Progress) -> None:
    """Write --out/checkpoint.safetensors atomically."""
    metadata = {"progress": json.dumps(vars(progress))}
    save_file(named_state(model, optimizer), args.out / "checkpoint.writing", metadata)
    os.replace(args.out / "checkpoint.writing", args.out / CHECKPOINT)


def load_checkpoint(args: argparse.Namespace, model: LlamaForCausalLM, optimizer) -> Progress:
    """Where the checkpoint stopped, with model and optimizer restored; the very start without --resume."""
    progress = Progress()
    if args.resume:
        with safe_open(args.out / CHECKPOINT, framework="pt") as stored:
            progress = Progress(**json.loads(stored.metadata()["progress"]))
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(tensors[f"model {name}"])
                kinds = ("step", "exp_avg", "exp_avg_sq")
                optimizer.state[parameter] = {kind: tensors[f"{kind} {name}"] for kind in kinds}
        say(f"resuming after step {progress.step:,}")
    progress.runs.append({"from_step": progress.step, "tokens": args.tokens, "threads": args.threads})
    return progress


def train_step(model: LlamaForCausalLM, optimizer, ids: torch.Tensor, lr: float, args: argparse.Namespace) -> float:
    """One optimizer step; returns the loss in nats."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss = loss_of(model, ids, args)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def train(model: LlamaForCausalLM, source: Iterator[torch.Tensor], args: argparse.Namespace) -> tuple[Progress, bool]:
    """Train to --tokens (or --stop-after); returns what was done and whether the schedule is complete."""
    optimizer = build_optimizer(model, args.lr)
    progress = load_checkpoint(args, model, optimizer)
    done, before = progress.step, progress.seconds
    steps = math.ceil(args.tokens / (args.batch * args.length))
    last = min(steps, done + args.stop_after) if args.stop_after else steps
    start = saved = shown = time.monotonic()
    for step, ids in enumerate(itertools.islice(source, done, last), done):
        loss = train_step(model, optimizer, ids, rate(step, steps, args), args)
        now = time.monotonic()
        progress.step, progress.seconds = step + 1, before + now - start
        if now - shown > 15 or step + 1 == last:
            speed = (step + 1 - done) * ids.numel() / (now - start)
            say(f"step {step + 1:,}/{steps:,} loss {loss:.3f} {speed:,.0f} tokens/s")
            shown = now
        if now - saved > args.checkpoint_seconds:
            save_checkpoint(args, model, optimizer, progress)
            saved = now
    if last < steps:
        save_checkpoint(args, model, optimizer, progress)
    return progress, last == steps


def write_result(model, tokenizer, corpus: Corpus, progress: Progress, args: argparse.Namespace) -> None:
    """Save the bfloat16 model and training.json (file names without their folders)."""
    model.to(torch.bfloat16).save_pretrained(args.out)
    model.float()
    plain, plain_bytes = plain_documents(20_000, tokenizer, HELD_OUT_SEED)
    tokens = progress.step * args.batch * args.length
    settings = {k: v.name if isinstance(v, Path) else v for k, v in vars(args).items()}
    shown = {"out": settings["out"], "tokens": args.tokens, "threads": args.threads, "seed": args.seed}
    record = {
        "command": "python scripts/train_base.py " + " ".join(f"--{k} {v}" for k, v in shown.items()),
        "arguments": settings,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": progress.step,
        "tokens": tokens,
        "seconds": round(progress.seconds, 3),
        "tokens_per_second": round(tokens / progress.seconds, 1),
        "threads": args.threads,
        "runs": progress.runs,
        "held_out_text": held_out_loss(model, corpus.held_out, corpus.held_out_bytes, args),
        "held_out_plain": held_out_loss(model, np.concatenate(plain), plain_bytes, args),
        "text_sha256": corpus.sha256,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }
    (args.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    say(f"held out: text {record['held_out_text']}, plain {record['held_out_plain']}")


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer, corpus = load_corpus(args)
    model = build_model(tokenizer, args)
    say(f"model: {sum(p.numel() for p in model.parameters()):,} parameters, {args.precision}, {args.threads} threads")
    progress, complete = train(model, batches(corpus, tokenizer, args), args)
    if complete:
        write_result(model, tokenizer, corpus, progress, args)
        (args.out / CHECKPOINT).unlink(missing_ok=True)
    say(f"{'wrote' if complete else 'stopped; go on with --resume in'} {args.out}")


if __name__ == "__main__":
    main()
