"""Options that several commands of the command line share, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PromptFile = Annotated[Path, typer.Argument(help="the prompt: text or Markdown")]
Data = Annotated[
    str, typer.Option(help="JSONL, JSON, CSV, TSV, Parquet file, folder with train/dev/test, or bundled task")
]
Model = Annotated[str, typer.Option(help="task model: any litellm name, or sim (built-in simulator)")]
AnswerPattern = Annotated[str | None, typer.Option(help="regex whose group is the answer")]


def _metrics() -> list[str]:
    from promptopt.tasks.metrics import METRICS

    return ["auto", *(name for name in METRICS if ":" not in name and "." not in name)]


def _optimizers() -> list[str]:
    from promptopt import registry

    return ["auto", *registry.optimizer_names()]


def _budgets() -> list[str]:
    from promptopt.named_budget import CALLS

    return list(CALLS)


def _rules() -> list[str]:
    from promptopt.stats import RULES

    return list(RULES)


Auto = Annotated[str | None, typer.Option(help="budget by name: light, medium or heavy", autocompletion=_budgets)]
Optimizer = Annotated[str, typer.Option(help="strategy; auto picks one", autocompletion=_optimizers)]
Metric = Annotated[
    str | None, typer.Option(help="auto, none, or see `promptopt metrics`", autocompletion=_metrics)
]
JudgeModel = Annotated[str | None, typer.Option(help="model that judges; else --model")]
SetModel = Annotated[
    list[str] | None, typer.Option("--set-model", help="option of a role's model, role.k=v (task.temperature=1)")
]
ApiBase = Annotated[str | None, typer.Option(help="address of an OpenAI-compatible server")]
PriceIn = Annotated[str | None, typer.Option(help="dollars per million input tokens")]
PriceOut = Annotated[str | None, typer.Option(help="dollars per million output tokens")]
Input = Annotated[str | None, typer.Option("--input", help="column of the input text")]
Image = Annotated[list[str] | None, typer.Option("--image", help="column of image files or URLs")]
Target = Annotated[str | None, typer.Option(help="column of the right answers [target]")]
BudgetTokens = Annotated[int | None, typer.Option(help="most tokens, in and out")]
BudgetSeconds = Annotated[float | None, typer.Option(help="most seconds")]
ConfirmAbove = Annotated[
    str, typer.Option(help="on a terminal, ask first if it may cost more dollars; none = never")
]
Concurrency = Annotated[int, typer.Option(help="calls in flight at most")]
Rpm = Annotated[int | None, typer.Option(help="calls a minute at most, of each endpoint")]
Tpm = Annotated[int | None, typer.Option(help="tokens a minute at most, of each endpoint")]
MaxTokens = Annotated[int | None, typer.Option(help="most output tokens of an answer")]
Description = Annotated[str | None, typer.Option(help="the task in a sentence, for the optimizer")]
OptimizerModel = Annotated[str | None, typer.Option(help="model that writes prompts; else --model")]
EmbeddingModel = Annotated[str | None, typer.Option(help="model for word vectors, where they help")]
Race = Annotated[
    str | None, typer.Option(help="rule of races: predictive, betting, paired-t, halving", autocompletion=_rules)
]
Probe = Annotated[
    bool, typer.Option("--probe", help="first ask each model once whether it takes its options (a paid call)")
]
Config = Annotated[Path | None, typer.Option(help="file of options [promptopt.toml, if there is one]")]
Out = Annotated[Path | None, typer.Option(help="run folder; an existing run there goes on")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="show the forecast, spend nothing")]
Objectives = Annotated[str | None, typer.Option(help="score,prompt_tokens or score,cost: keep a front of prompts")]
Quiet = Annotated[bool, typer.Option("--quiet", help="no notes, no progress")]
