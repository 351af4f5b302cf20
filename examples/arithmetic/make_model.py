"""Train a tiny Qwen2 from scratch by supervised learning, to partial skill.

    python -m examples.arithmetic.make_model --data outputs/data --out outputs/base

The RL run starts from here. The demonstrations never show a fifth of the digit sums, so the model writes the form
well and is right about half the time: it has the most to learn from its own attempts.
"""

import argparse
import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from examples.arithmetic import task
from examples.arithmetic.make_data import distinct_pairs, draw_pairs

RECIPE: dict[str, Any] = {
    "format": 2,
    "steps": 240,
    "batch_size": 128,
    "learning_rate": 2e-3,
    "warmup_steps": 20,
    # The share of the steps at the end over which the learning rate falls to nothing.
    "decay": 0.4,
    "dev_every": 20,
    "dev_n": 400,
}
"""What else the weights depend on; kept in ``meta.json``, so a model made otherwise is not taken for this one."""

ACCEPTED = (0.4, 0.7)
"""Held-out greedy accuracy a base model may have."""

MAX_NEW_TOKENS = 40
"""Above the longest response and its end-of-sequence token: 33 tokens."""

IGNORED = -100
PAD, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: sums, and so the weights, do not depend on the number of cores, nor on who shares them.

    At this size a second core saves a third of the time at best.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def make_tokenizer() -> Qwen2Tokenizer:
    """Qwen2's byte-level BPE without merges: 256 bytes and three special tokens, one token per ASCII character."""
    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), PAD, IM_START, IM_END]
    tokenizer = Qwen2Tokenizer(
        vocab={symbol: index for index, symbol in enumerate(symbols)},
        merges=[],
        unk_token=None,
        eos_token=IM_END,
        pad_token=PAD,
        additional_special_tokens=[IM_START],
        model_max_length=128,
    )
    # Contents and nothing else: the prompt is the question itself, and the generation prompt adds nothing.
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return tokenizer


def make_model(tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """0.15M parameters in float32. vLLM's CPU attention asks for a head dimension that is a multiple of 32."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        # 0.02 is for widths of thousands; at width 64 learning takes three times the steps.
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
        attn_implementation="sdpa",
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=MAX_NEW_TOKENS
    )
    return model


def prompt_ids(tokenizer: Qwen2Tokenizer, contents: list[str]) -> list[list[int]]:
    """Token ids of prompts exactly as the RL rollout sends them."""
    conversations = [[{"role": "user", "content": content}] for content in contents]
    return tokenizer.apply_chat_template(conversations, add_generation_prompt=True, return_dict=False)


def encode(tokenizer: Qwen2Tokenizer, pairs: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt, solution, end-of-sequence: ids and next-token labels, both ``(pairs, longest)``, padded on the right.

    Labels are already shifted; those of the prompt and the padding are ``IGNORED``.
    """
    prompts = prompt_ids(tokenizer, [task.prompt(a, b) for a, b in pairs])
    solutions = tokenizer([task.solution(a, b) for a, b in pairs], add_special_tokens=False)["input_ids"]
    responses = [[*solution, tokenizer.eos_token_id] for solution in solutions]
    longest = max(len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True))
    ids = torch.full((len(pairs), longest), tokenizer.pad_token_id)
    labels = torch.full((len(pairs), longest), IGNORED)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        end = len(prompt) + len(response)
        ids[row, :end] = torch.tensor(prompt + response)
        labels[row, len(prompt) - 1 : end - 1] = torch.tensor(response)
    return ids, labels


def next_token_logits(model: Qwen2ForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Logits ``(rows, positions, vocabulary)``; padding is on the right, where causal attention never looks."""
    return model(input_ids=ids, use_cache=False).logits


@torch.no_grad()
def exact_share(model: Qwen2ForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of problems whose greedy response is the worked solution, token for token, from one forward pass.

    Greedy decoding writes the solution exactly when, given the solution so far, each next token is the likeliest.
    At most the graded accuracy, which forgives a wrong step before a right answer.
    """
    hits = (next_token_logits(model, ids).argmax(-1) == labels) | (labels == IGNORED)
    return hits.all(-1).float().mean().item()


@torch.no_grad()
def greedy_accuracy(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, prompts: list[str], golds: list[str], batch_size: int = 500
) -> float:
    """Share of prompts whose greedy response the task grades as right. Prompts must have one length in tokens."""
    right = 0
    for start in range(0, len(prompts), batch_size):
        ids = torch.tensor(prompt_ids(tokenizer, prompts[start : start + batch_size]))
        output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False)
        responses = tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
        right += sum(map(task.grade, responses, golds[start : start + batch_size]))
    return right / len(prompts)


def learning_rate_factor(step: int) -> float:
    """Warm-up, a plateau, and a linear fall over the last steps."""
    left = (RECIPE["steps"] - step) / (RECIPE["decay"] * RECIPE["steps"])
    return min(1.0, (step + 1) / RECIPE["warmup_steps"], max(0.05, left))


def train(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, seed: int) -> float:
    """Supervised steps over fresh demonstrable pairs of the training partition.

    Returns:
        Share of the demonstrable dev problems solved exactly at the end: how well the form is learned. The dev pairs
        are a partition of their own.
    """
    pairs = (pair for pair in draw_pairs("train", random.Random(f"sft-{seed}")) if task.is_demonstrable(*pair))
    dev_pairs = [pair for pair in distinct_pairs("dev", RECIPE["dev_n"], seed) if task.is_demonstrable(*pair)]
    dev = encode(tokenizer, dev_pairs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RECIPE["learning_rate"], betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor)
    share, began = 0.0, time.monotonic()
    for step in range(1, RECIPE["steps"] + 1):
        ids, labels = encode(tokenizer, list(islice(pairs, RECIPE["batch_size"])))
        logits = next_token_logits(model, ids)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % RECIPE["dev_every"] == 0 or step == RECIPE["steps"]:
            share = exact_share(model, *dev)
            seconds = time.monotonic() - began
            print(
                f"base model, step {step:3d}/{RECIPE['steps']}  loss {loss.item():.3f}  "
                f"demonstrable dev problems solved {share:.2f}  {seconds:4.0f} s",
                flush=True,
            )
    return share


@one_thread()
def make_base(data: Path, out: Path, seed: int = 0) -> dict[str, Any]:
    """Train, measure on ``data/heldout.parquet`` and save in the Hugging Face form; returns ``meta.json``'s contents.

    A model already in ``out`` with the same settings is left as it is.

    Raises:
        FileExistsError: ``out`` holds something else.
        RuntimeError: held-out accuracy is outside ``ACCEPTED``.
    """
    settings = {**RECIPE, "seed": seed, "data": json.loads((data / "meta.json").read_text())}
    if (out / "meta.json").exists():
        found = json.loads((out / "meta.json").read_text())
        if found["settings"] != settings:
            raise FileExistsError(f"{out} holds a model made with other settings: choose another --out")
        print(f"{out}: already there")
        return found
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty and holds no finished model: choose another --out")

    began = time.monotonic()
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    dev_share = train(model, tokenizer, seed)
    heldout = pd.read_parquet(data / "heldout.parquet")
    prompts = [messages[0]["content"] for messages in heldout["prompt"]]
    golds = [reward["ground_truth"] for reward in heldout["reward_model"]]
    accuracy = greedy_accuracy(model.eval(), tokenizer, prompts, golds)
    low, high = ACCEPTED
    if not low <= accuracy <= high:
        raise RuntimeError(f"held-out accuracy {accuracy:.3f} is outside [{low}, {high}], nothing saved: change --seed")
    meta = {
        "settings": settings,
        "dev_exact": dev_share,
        "heldout_accuracy": accuracy,
        "heldout_n": len(prompts),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "seconds": round(time.monotonic() - began, 1),
    }
    save(model, tokenizer, meta, out)
    return meta


def save(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, meta: dict[str, Any], out: Path) -> None:
    """Write everything beside ``out``, check that it reads back, then rename: ``out`` is whole or absent."""
    scratch = out.parent / f".{out.name}.{os.getpid()}.tmp"
    try:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        text = task.prompt(347, 585) + task.solution(347, 585) + "\n"
        if AutoTokenizer.from_pretrained(scratch).encode(text) != tokenizer.encode(text):
            raise RuntimeError("the saved tokenizer reads back with other ids")
        (scratch / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
        os.replace(scratch, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder written by make_data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the batches (default %(default)s)")
    args = parser.parse_args()
    try:
        meta = make_base(args.data, args.out, args.seed)
    except (FileExistsError, FileNotFoundError, RuntimeError) as error:
        raise SystemExit(f"make_model: {error}") from None
    print(
        f"{args.out}: {meta['parameters']:,} parameters, {meta['seconds']} s; "
        f"held-out greedy accuracy {meta['heldout_accuracy']:.3f} (n={meta['heldout_n']})"
    )


if __name__ == "__main__":
    main()
