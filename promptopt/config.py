"""What a user asks for, read and checked: the prompt, the data, the metric, the settings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from promptopt import data, promptfile, template
from promptopt.errors import ConfigError
from promptopt.gate import normal_form
from promptopt.task import Task
from promptopt.types import Budget, Prompt

DEFAULT_CALLS = 1000


@dataclass(frozen=True)
class Settings:
    """The settings of a run besides prompt and task.

    Args:
        model: litellm's name of the task model, or `sim`.
        optimizer: name of the strategy, `auto`, or `path.py:Name`.
        options: options of the strategy, as text.
        budget: limits of the whole run; without any, 1,000 calls.
        optimizer_model: None = the task model.
        judge_model: None = the task model.
        api_base: address of an OpenAI-compatible server, for every role whose model is not `sim`.
        price_in: dollars per million input tokens, where no list has the price, or to override it for
            the task model; None = the list.
        price_out: the same for output tokens.
        proof_examples: test examples for the proof; 0 = no proof, None = all that its share affords.
        seed: random seed of the whole run.
        concurrency: calls in flight at most; changes nothing but speed.
        max_tokens: output tokens of an answer of the task model; None = 1,024, 8,192 if it reasons.
        max_prompt_tokens: longest prompt; None = 2,000 or four times the initial prompt.
        out: folder of the run; None = a new one below `runs/`.
    """

    model: str
    optimizer: str = "auto"
    options: Mapping[str, str] = field(default_factory=dict)
    budget: Budget = Budget()
    optimizer_model: str | None = None
    judge_model: str | None = None
    api_base: str | None = None
    price_in: float | Decimal | None = None
    price_out: float | Decimal | None = None
    proof_examples: int | None = None
    seed: int = 0
    concurrency: int = 16
    max_tokens: int | None = None
    max_prompt_tokens: int | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        """Refuse values that make no sense, before anything is spent."""
        positive: dict[str, Any] = {
            "--concurrency": self.concurrency,
            "--max-tokens": self.max_tokens,
            "--max-prompt-tokens": self.max_prompt_tokens,
            "--budget-usd": self.budget.usd,
            "--budget-calls": self.budget.calls,
            "--budget-tokens": self.budget.tokens,
            "--budget-seconds": self.budget.seconds,
        }
        for name, value in positive.items():
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}; it must be above 0")
        for name, value in {"--proof-examples": self.proof_examples, "--seed": self.seed}.items():
            if value is not None and value < 0:
                raise ConfigError(f"{name} is {value}; it must not be negative")
        if (self.price_in is None) != (self.price_out is None):
            raise ConfigError("give both --price-in and --price-out, in dollars per million tokens")
        for name, price in {"--price-in": self.price_in, "--price-out": self.price_out}.items():
            if price is not None and not (price >= 0 and Decimal(str(price)).is_finite()):
                raise ConfigError(f"{name} is {price}; a price is at least 0 dollars per million tokens")

    @property
    def prices(self) -> tuple[Decimal, Decimal] | None:
        """Dollars per input and per output token, as the user gave them; None = not given."""
        if self.price_in is None or self.price_out is None:
            return None
        return Decimal(str(self.price_in)) / 1_000_000, Decimal(str(self.price_out)) / 1_000_000

    def with_default_budget(self) -> Settings:
        """Return these settings with a budget: 1,000 calls where the user gave none."""
        if self.budget != Budget():
            return self
        return replace(self, budget=Budget(calls=DEFAULT_CALLS))


def load_prompt(prompt: str | Path | Prompt) -> promptfile.PromptFile:
    """Return the prompt of a file (Path), of text in its format (str), or as it is.

    Raises:
        ConfigError: it cannot be read or is malformed.
    """
    if isinstance(prompt, Prompt):
        return promptfile.PromptFile(replace(prompt, instruction=normal_form(prompt.instruction)), {}, "")
    return promptfile.read(prompt) if isinstance(prompt, Path) else promptfile.parse(prompt)


def load_task(
    source: str | Path,
    *,
    metric: str = "auto",
    target: str = "target",
    input: str | None = None,
    description: str = "",
    seed: int = 0,
    columns_of: Prompt | None = None,
) -> tuple[Task, tuple[str, ...]]:
    """Return the task of a data file, a folder or a bundled name, and notes to show to the user.

    Args:
        source: .jsonl or .csv file, folder with train, dev and test files, or name of a bundled task.
        metric: name, `auto` (picked by the targets) or `path.py:function`.
        target: column of the targets.
        input: column that is the user message of a prompt without placeholders; None = `input`, or the
            only one.
        seed: for splitting a single file.
        columns_of: the prompt that will be used; its placeholders name the columns that matter.

    Raises:
        ConfigError: something is wrong with the data, with file, line and remedy.
    """
    from promptopt.tasks import bundled, metrics

    path, name = Path(source), str(source)
    settings: Mapping[str, str] = {}
    if not path.exists() and name in bundled.names():
        path = bundled.folder(name)
        settings = promptfile.read(path / bundled.PROMPT).settings
    elif not path.exists():
        known = ", ".join(bundled.names())
        raise ConfigError(f"--data {name}: no such file or folder, nor a bundled task ({known})")
    else:
        name = path.resolve().stem
    metric = settings.get("metric", metric) if metric == "auto" else metric
    rows = data.load(path, seed=seed, target=target, input=input)
    notes = list(rows.notes)
    targets = [example.target for example in (*rows.train, *rows.dev, *rows.test)]
    if metric == "auto":
        chosen, reason = metrics.choose(targets)
        notes.append(f"metric {chosen.name}: {reason}")
    else:
        chosen = metrics.load(metric, targets)
    task = Task(
        name=name,
        metric=chosen,
        train=rows.train,
        dev=rows.dev,
        test=rows.test,
        description=description or settings.get("description", ""),
        input_column=_input_column(input, rows.columns, columns_of),
    )
    return task, tuple(notes)


def decimal(text: str, what: str) -> Decimal:
    """Return a number that a user wrote, exactly.

    Raises:
        ConfigError: it is none.
    """
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ConfigError(f"{what} is {text!r}; write a number, such as 2 or 0.50") from None
    if not number.is_finite():
        raise ConfigError(f"{what} is {text!r}; write a finite number")
    return number


def _input_column(named: str | None, columns: tuple[str, ...], prompt: Prompt | None) -> str:
    if named is not None and named not in columns:
        raise ConfigError(f"--input {named}: there is no such column (columns: {', '.join(columns)})")
    if named is not None:
        return named
    if "input" in columns or len(columns) == 1:
        return "input" if "input" in columns else columns[0]
    if prompt is not None and template.placeholders(prompt.instruction, columns):
        return columns[0]
    raise ConfigError(
        f"the prompt has no placeholder and the data has several columns ({', '.join(columns)}); "
        "write {{column}} where the input belongs, or name it with --input"
    )
