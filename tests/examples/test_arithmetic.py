"""The arithmetic example: its task, its data, its tokenizer and base model, its summary and picture."""

import json
import random
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.arithmetic import make_data, make_model, plot, summary, task
from verl_ext.rewards import Kind
from verl_ext.rewards.routing import verifier_of
from verl_ext.rewards.settings import RewardSettings
from verl_ext.rewards.verifiers import verdict_of


def everyday_pairs(count: int) -> list[tuple[int, int]]:
    corners = [(100, 100), (999, 999), (100, 999), (999, 1 + 100), (347, 585)]
    return corners + list(islice(make_data.draw_pairs("train", random.Random(0)), count))


# --- task


def test_the_worked_example() -> None:
    assert task.prompt(347, 585) == "347+585="
    assert task.solution(347, 585) == "7+5+0=12;4+8+1=13;3+5+1=09;A932"


def test_every_solution_is_right_and_of_the_stated_length() -> None:
    for a, b in everyday_pairs(500):
        text = task.solution(a, b)
        steps = re.findall(r"(\d)\+(\d)\+([01])=(\d\d);", text)
        assert len(steps) == 3, text
        assert all(int(x) + int(y) + int(carry) == int(total) for x, y, carry, total in steps), text
        assert len(text) in (31, 32), text
        assert task.grade(text, str(a + b)), text


@pytest.mark.parametrize(
    "response",
    [
        "",
        "A",
        "932",
        "A932 ",
        "A 932",
        "A932\n",
        "A0932",
        "A+932",
        "A932.0",
        "A9_32",
        "A٩٣٢",
        "A９３２",
        "A932A",
        "A932A933",
        "a932",
        "A466*2",
        "A__import__('os').abort()",
        "A" * 1_000_000,
        "A" + "9" * 1_000_000,
        "\x00A93\x002",
    ],
)
def test_hostile_responses_are_wrong(response: str) -> None:
    assert not task.grade(response, "932")


def test_only_the_last_answer_counts() -> None:
    assert task.grade("A1A933A932", "932")
    assert task.grade("no working at all A932", "932")


@pytest.mark.parametrize("gold", ["", "٣", "²", "-5", "9 32", "A932"])
def test_a_gold_answer_that_cannot_be_graded_is_an_error(gold: str) -> None:
    with pytest.raises(ValueError, match="gold"):
        task.grade("A932", gold)


@pytest.mark.parametrize(
    "response", ["A932", "7+5=12;A932", "A931", "932", "", "A932 ", "AA932", "A932A", "A０", "A932A932"]
)
def test_the_verifier_of_training_grades_as_the_task_does(response: str) -> None:
    verdict = verdict_of(verifier_of(task.DATA_SOURCE, {}, has_user_function=False), response, "932", RewardSettings())
    assert verdict.score == float(task.grade(response, "932"))


def test_a_gold_answer_that_is_no_number_is_nobodys_fault() -> None:
    verdict = verdict_of("arithmetic", "A932", "932.0", RewardSettings())
    assert (verdict.kind, verdict.score) == (Kind.GRADER_ERROR, 0.0)


def test_the_withheld_sums_are_a_fixed_fifth_and_half_of_the_problems_need_one() -> None:
    sums = [(x, y, carry) for x in range(10) for y in range(10) for carry in (0, 1)]
    withheld = [digits for digits in sums if task.is_withheld(*digits)]
    assert 0.15 < len(withheld) / len(sums) < 0.25
    assert all(task.is_withheld(y, x, carry) for x, y, carry in withheld)
    pairs = everyday_pairs(2000)
    for a, b in pairs[:50]:
        steps = re.findall(r"(\d)\+(\d)\+(\d)=", task.solution(a, b))
        assert [tuple(map(int, step)) for step in steps] == list(task.digit_sums(a, b))
        assert task.is_demonstrable(a, b) == (not set(task.digit_sums(a, b)) & set(withheld))
    assert 0.4 < sum(task.is_demonstrable(a, b) for a, b in pairs) / len(pairs) < 0.6
    # A change of the hash would call for another base model and other results.
    assert [y for y in range(10) if task.is_withheld(7, y, 1)] == [3, 4]


# --- data


def unordered(frame: pd.DataFrame) -> set[tuple[int, int]]:
    return {(min(info["a"], info["b"]), max(info["a"], info["b"])) for info in frame["extra_info"]}


def test_the_partition_ignores_the_order_and_keeps_its_sizes() -> None:
    pairs = everyday_pairs(0) + [(a, b) for a in range(100, 1000, 7) for b in range(100, 1000, 11)]
    splits = [task.partition(a, b) for a, b in pairs]
    assert splits == [task.partition(b, a) for a, b in pairs]
    assert 0.07 < splits.count("heldout") / len(pairs) < 0.13
    assert 0.07 < splits.count("dev") / len(pairs) < 0.13
    # A change of the hash would let an old model see the new held-out set.
    assert [task.partition(a, 585) for a in range(359, 365)] == ["train", "train", "dev", "train", "train", "heldout"]


def test_the_sets_are_disjoint_by_unordered_pair_for_any_seeds(tmp_path: Path) -> None:
    make_data.make_data(tmp_path / "x", train=2000, heldout=300, seed=0)
    make_data.make_data(tmp_path / "y", train=2000, heldout=300, seed=1)
    heldout = unordered(pd.read_parquet(tmp_path / "x" / "heldout.parquet"))
    assert len(heldout) == 300
    for folder in ("x", "y"):
        assert not heldout & unordered(pd.read_parquet(tmp_path / folder / "train.parquet"))
    sft = set(islice(make_data.draw_pairs("train", random.Random("sft-0")), 20_000))
    dev = set(make_data.distinct_pairs("dev", 400, 0))
    assert not heldout & {(min(pair), max(pair)) for pair in sft | dev}
    assert not sft & dev


def test_the_files_have_verls_columns_and_are_the_same_every_time(tmp_path: Path) -> None:
    assert make_data.make_data(tmp_path / "x", train=50, heldout=20)
    assert make_data.make_data(tmp_path / "y", train=50, heldout=20)
    for name in ("train.parquet", "heldout.parquet"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()
    frame = pd.read_parquet(tmp_path / "x" / "train.parquet")
    assert list(frame.columns) == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
    for _, row in frame.iterrows():
        info = row["extra_info"]
        assert list(row["prompt"]) == [{"role": "user", "content": task.prompt(info["a"], info["b"])}]
        assert row["reward_model"] == {"style": "rule", "ground_truth": str(info["a"] + info["b"])}
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["heldout.parquet", "meta.json", "train.parquet"]


def test_data_there_is_kept_and_other_settings_are_refused(tmp_path: Path) -> None:
    assert make_data.make_data(tmp_path, train=50, heldout=20)
    before = (tmp_path / "train.parquet").stat().st_mtime_ns
    assert not make_data.make_data(tmp_path, train=50, heldout=20)
    assert (tmp_path / "train.parquet").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="another --out"):
        make_data.make_data(tmp_path, train=51, heldout=20)


@pytest.mark.parametrize("count", [-1, 0, 10**6])
def test_more_problems_than_there_are_is_an_error_not_a_hang(count: int) -> None:
    with pytest.raises(ValueError, match="distinct"):
        make_data.distinct_pairs("heldout", count, 0)


# --- tokenizer and model


def test_a_character_is_a_token_and_the_saved_tokenizer_agrees(tmp_path: Path) -> None:
    tokenizer = make_model.make_tokenizer()
    make_model.make_model(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("\n", "347+585=7+5+0=12;4+8+1=13;3+5+1=09;A932", "user\nassistant", "0 a\n\n b"):
        ids = tokenizer.encode(text)
        assert len(ids) == len(text)
        assert loaded.encode(text) == ids
        assert loaded.decode(ids) == text
    assert len(loaded) == 259
    assert loaded.eos_token == "<|im_end|>"
    assert loaded.pad_token == "<|endoftext|>"
    assert loaded.encode("<|im_end|>") == [loaded.eos_token_id]
    assert loaded.eos_token_id != loaded.pad_token_id
    messages = [{"role": "user", "content": "347+585="}]
    assert loaded.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == "347+585="
    assert loaded.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) == loaded.encode(
        "347+585="
    )


def test_labels_are_the_next_response_tokens_and_nothing_else() -> None:
    tokenizer = make_model.make_tokenizer()
    pairs = [(111, 111), (999, 999)]
    ids, labels = make_model.encode(tokenizer, pairs)
    assert ids.shape == labels.shape == (2, 8 + 32 + 1)
    for (a, b), row_ids, row_labels in zip(pairs, ids, labels, strict=True):
        text = task.prompt(a, b) + task.solution(a, b)
        assert tokenizer.decode(row_ids[: len(text)]) == text
        assert row_ids[len(text)] == tokenizer.eos_token_id
        assert (row_ids[len(text) + 1 :] == tokenizer.pad_token_id).all()
        wanted = row_labels != make_model.IGNORED
        assert tokenizer.decode(row_labels[wanted]) == task.solution(a, b) + "<|im_end|>"
        # The first label sits on the prompt's last token.
        assert wanted.nonzero()[0].item() == 7
        shifted = torch.roll(row_ids, -1)
        assert (row_labels[wanted] == shifted[wanted]).all()


def test_the_learning_rate_warms_up_stays_and_falls() -> None:
    factors = [make_model.learning_rate_factor(step) for step in range(make_model.RECIPE["steps"])]
    peak = [step for step, factor in enumerate(factors) if factor == 1]
    assert factors[0] == 1 / make_model.RECIPE["warmup_steps"]
    assert peak == list(range(peak[0], peak[-1] + 1))
    assert factors[: peak[0]] == sorted(factors[: peak[0]])
    assert factors[peak[-1] :] == sorted(factors[peak[-1] :], reverse=True)
    assert 0 < factors[-1] <= 0.05


@make_model.one_thread()
def test_one_forward_pass_finds_what_greedy_decoding_writes() -> None:
    torch.manual_seed(0)
    tokenizer = make_model.make_tokenizer()
    model = make_model.make_model(tokenizer)
    pairs = [(347, 585), (120, 130), (500, 999)]
    ids, labels = make_model.encode(tokenizer, pairs)
    prompts, golds = [task.prompt(a, b) for a, b in pairs], [str(a + b) for a, b in pairs]
    assert make_model.exact_share(model, ids, labels) == 0
    # Learnt by heart, the three problems are solved by both measures.
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        logits = make_model.next_token_logits(model, ids)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert make_model.exact_share(model, ids, labels) == 1
    assert make_model.greedy_accuracy(model, tokenizer, prompts, golds, batch_size=2) == 1
    assert make_model.greedy_accuracy(model, tokenizer, prompts, ["1", "250", "2"]) == pytest.approx(1 / 3)


@pytest.fixture
def tiny_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two steps of training, so that everything around the training runs in a second or two."""
    monkeypatch.setitem(make_model.RECIPE, "steps", 2)
    monkeypatch.setitem(make_model.RECIPE, "dev_every", 1)
    monkeypatch.setitem(make_model.RECIPE, "batch_size", 8)
    monkeypatch.setitem(make_model.RECIPE, "dev_n", 8)
    make_data.make_data(tmp_path / "data", train=20, heldout=20)
    return tmp_path


def test_a_base_model_is_saved_whole_skipped_when_there_and_the_same_for_a_seed(
    tiny_budget: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_model, "ACCEPTED", (0.0, 1.0))
    data = tiny_budget / "data"
    out, again, other = tiny_budget / "base", tiny_budget / "again", tiny_budget / "other"
    meta = make_model.make_base(data, out, seed=3)
    assert meta["heldout_n"] == 20
    assert {"config.json", "generation_config.json", "meta.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in out.iterdir()
    }
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert model.config.model_type == "qwen2"
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer) == model.get_input_embeddings().num_embeddings
    assert model.config.hidden_size // model.config.num_attention_heads % 32 == 0
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id

    assert make_model.make_base(data, out, seed=3) == meta
    with pytest.raises(FileExistsError, match="another --out"):
        make_model.make_base(data, out, seed=4)
    make_model.make_base(data, again, seed=3)
    make_model.make_base(data, other, seed=4)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (out, again, other)]
    assert weights[0] == weights[1] != weights[2]


def test_a_base_model_out_of_range_is_not_saved(tiny_budget: Path) -> None:
    data, out = tiny_budget / "data", tiny_budget / "base"
    with pytest.raises(RuntimeError, match="outside"):
        make_model.make_base(data, out)
    assert [path.name for path in tiny_budget.iterdir()] == ["data"]


def test_a_folder_with_something_else_is_left_alone(tiny_budget: Path) -> None:
    out = tiny_budget / "notes"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="not empty"):
        make_model.make_base(tiny_budget / "data", out)
    assert (out / "mine.txt").read_text() == "keep"


# --- summary and plot


def write_run(folder: Path, method: str = "spro", share: float | None = 0.2, steps: int = 30) -> Path:
    """Made-up metrics: one second of generation and two of update a step, a slow start, accuracy 0.5 to 0.8."""
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = [{"step": 0, "data": {"val-core/arithmetic/acc/mean@1": 0.5}}]
    for step in range(1, steps + 1):
        data: dict[str, Any] = {
            "critic/score/mean": 0.5 + step / 100,
            "actor/entropy": 1 / step,
            "response_length/mean": 30.0,
            "timing_s/step": 100.0 if step <= 2 else 4.0,
            "timing_s/gen": 97.0 if step <= 2 else 1.0,
            "timing_s/update_actor": 2.0,
        }
        if share is not None:
            data["spro/process_share"] = share
        if step % 10 == 0:
            data |= {"val-core/arithmetic/acc/mean@1": 0.5 + step / 100, "timing_s/testing": 3.0}
        lines.append({"step": step, "data": data})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    info = {"method": method, "seed": 7, "beta": 0.05, "heldout_n": 1000}
    (folder / "run.json").write_text(json.dumps(info))
    return folder


def run_cli(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"examples.arithmetic.{module}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_summary_says_what_the_run_came_to(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "spro-seed7")
    done = run_cli("summary", folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "summary.md").read_text() == done.stdout
    assert "method spro, seed 7, beta 0.05, 30 steps" in done.stdout
    assert "(n=1000): 0.500 at step 0, 0.800 at step 30" in done.stdout
    assert "4.00 s" in done.stdout
    assert "| gen | 1.00 | 25% |" in done.stdout
    assert "| testing | 3.00 | when it runs |" in done.stdout
    assert "median spro/process_share: 0.200" in done.stdout
    assert "GRPO, not SPRO" not in done.stdout


def test_an_spro_run_without_a_process_share_is_called_grpo(tmp_path: Path) -> None:
    low = summary.describe(summary.load_run(write_run(tmp_path / "low", share=0.004)))
    assert "share under 0.01: this run shows GRPO, not SPRO" in low
    absent = summary.describe(summary.load_run(write_run(tmp_path / "absent", share=None)))
    assert "was not logged" in absent
    grpo = summary.describe(summary.load_run(write_run(tmp_path / "grpo", method="grpo", share=None)))
    assert "SPRO" not in grpo


def test_a_short_run_is_summed_up_without_inventing_anything(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "short", steps=1)
    (folder / "run.json").unlink()
    text = summary.describe(summary.load_run(folder))
    assert "method ?" in text
    assert "no before and after" in text
    assert "so no times" in text


@pytest.mark.parametrize("content", [None, "", "\n", '{"step": 1, "da'])
@pytest.mark.parametrize("module", ["summary", "plot"])
def test_no_metrics_is_a_clear_message_and_exit_code_2(tmp_path: Path, content: str | None, module: str) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    entry = {"summary": summary.main, "plot": plot.main}[module]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, str(tmp_path)])
        assert entry() == 2
    assert not (tmp_path / "summary.md").exists()


def test_a_cut_last_line_is_left_out_but_a_bad_one_within_is_an_error(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", steps=5) / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 6, "data": {"critic/sc')
    assert max(summary.load_run(path.parent).steps) == 5
    path.write_text("garbage\n" + whole)
    with pytest.raises(ValueError, match="line 1"):
        summary.load_run(path.parent)


def test_the_reward_stands_in_for_an_accuracy_that_was_not_logged(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run") / "metrics.jsonl"
    path.write_text(path.read_text().replace("arithmetic/acc/", "arithmetic/reward/"))
    steps, values = summary.load_run(path.parent).series(*summary.ACCURACY_KEYS)
    assert steps == [0, 10, 20, 30]
    assert values[-1] == pytest.approx(0.8)


def test_one_run_and_several_are_drawn(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "spro"), write_run(tmp_path / "grpo", method="grpo", share=None)]
    folders.append(write_run(tmp_path / "new", steps=1))
    runs = [summary.load_run(folder) for folder in folders]
    for count in (1, 3):
        out = tmp_path / f"{count}.png"
        plot.plot(runs[-count:], out)
        assert out.read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*.tmp"))
    with pytest.raises(ValueError, match="at most"):
        plot.plot(runs[:1] * 20, tmp_path / "many.png")


def test_the_plot_command_writes_where_it_is_told(tmp_path: Path) -> None:
    done = run_cli("plot", write_run(tmp_path / "run"), "--out", tmp_path / "demo.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo.png").stat().st_size > 10_000
