"""The command `promptopt evaluate`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptopt.cli_options import (
    AnswerPattern,
    ApiBase,
    BudgetSeconds,
    BudgetTokens,
    Concurrency,
    Config,
    ConfirmAbove,
    Data,
    DryRun,
    Image,
    Input,
    JudgeModel,
    MaxTokens,
    Metric,
    Model,
    Out,
    PriceIn,
    PriceOut,
    PromptFile,
    Quiet,
    Rpm,
    SetModel,
    Target,
    Tpm,
)
from promptopt.cli_run import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    Shows,
    complain,
    confirm,
    is_costly,
    leave_at_once,
    pairs,
    print_json,
)

if TYPE_CHECKING:
    from promptopt.config import Settings
    from promptopt.scoring import Evaluation


def _splits() -> list[str]:
    from promptopt.scoring import SPLITS

    return list(SPLITS)


def evaluate(
    prompt_file: PromptFile,
    data: Data,
    model: Model,
    judge_model: JudgeModel = None,
    split: Annotated[str, typer.Option(help="train, dev, test or all", autocompletion=_splits)] = "test",
    examples: Annotated[int | None, typer.Option(help="a random sample of so many, by seed")] = None,
    metric: Metric = None,
    answer_pattern: AnswerPattern = None,
    set_model: SetModel = None,
    api_base: ApiBase = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    input_: Input = None,
    target: Target = None,
    image: Image = None,
    budget_usd: Annotated[str | None, typer.Option(help="most dollars")] = None,
    budget_calls: Annotated[int | None, typer.Option(help="most answers used")] = None,
    budget_tokens: BudgetTokens = None,
    budget_seconds: BudgetSeconds = None,
    confirm_above: ConfirmAbove = "5",
    seed: Annotated[int, typer.Option(help="random seed of splits and samples")] = 0,
    concurrency: Concurrency = 16,
    rpm: Rpm = None,
    tpm: Tpm = None,
    max_tokens: MaxTokens = None,
    fail_under: Annotated[float | None, typer.Option(help="exit with 1 below this score, 0 to 1")] = None,
    failures: Annotated[int, typer.Option(help="failed examples to show")] = 5,
    config: Config = None,
    out: Out = None,
    dry_run: DryRun = False,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON only")] = False,
    quiet: Quiet = False,
) -> None:
    """Score a prompt as it is, and show where it fails.

    Shows the score with an interval, tokens and cost a call, and failures with reasons. Answers that lie in
    --out, such as those of an `optimize` run there, are not paid again. Exit status: 0 done, 1 failed, incomplete
    or below --fail-under, 2 wrong use, 130 interrupted.
    """
    from promptopt import config as configs
    from promptopt import roles
    from promptopt.bound import check_count, number_or_none
    from promptopt.errors import ConfigError
    from promptopt.types import Budget

    if fail_under is not None and not 0 <= fail_under <= 1:
        raise ConfigError(f"--fail-under is {fail_under}; scores lie between 0 and 1, so write 0.9 for 90%")
    check_count("--failures", failures, 0)
    shows = Shows.of(confirm_above, config, dry_run=dry_run, as_json=as_json, quiet=quiet)
    usd = number_or_none(budget_usd, "--budget-usd")
    settings = configs.Settings(
        model=model,
        budget=Budget(usd, budget_calls, budget_tokens, budget_seconds),
        judge_model=judge_model,
        model_options=roles.read_options(pairs(set_model or [], "--set-model")),
        api_base=api_base,
        price_in=number_or_none(price_in, "--price-in"),
        price_out=number_or_none(price_out, "--price-out"),
        seed=seed,
        concurrency=concurrency,
        rpm=rpm,
        tpm=tpm,
        max_tokens=max_tokens,
        out=out,
    )
    data_options = {"metric": metric, "target": target, "input": input_, "images": image}
    data_options["answer_pattern"] = answer_pattern
    found = _evaluate((prompt_file, data, settings, split, examples), data_options, shows, failures)
    if found is None:
        return
    is_low = fail_under is not None and (found.score is None or found.score.score < fail_under)
    if is_low:
        sys.stderr.write(f"below --fail-under {fail_under}\n")
    if found.status == "interrupted":
        raise typer.Exit(EXIT_INTERRUPTED)
    raise typer.Exit(EXIT_FAILED if is_low or found.status != "completed" else EXIT_DONE)


def _evaluate(
    what: tuple[Path, str, Settings, str, int | None], data_options: dict[str, Any], shows: Shows, n_shown: int
) -> Evaluation | None:
    from promptopt import api
    from promptopt.screen_evaluation import EvaluationScreen

    evaluating = api.prepare_evaluation(*what, is_command=True, **data_options)
    screen = EvaluationScreen(evaluating, is_quiet=shows.quiet or shows.as_json)
    screen.start()
    if shows.dry_run:
        screen.estimate()
        return None
    if is_costly(evaluating.estimate.worst_usd, shows.confirm_above, evaluating.models.values()):
        confirm(evaluating.estimate.worst_usd, evaluating.models.values())
    try:
        found: Evaluation = api.run_in_thread(evaluating, screen.watch)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        leave_at_once(evaluating.folder)
    finally:
        screen.end_watch()
    if shows.as_json:
        print_json(found.to_json())
    else:
        screen.result(found, n_shown)
    if found.status == "failed":
        complain(found.reason)
    return found
