"""The command `promptopt compare`."""

from __future__ import annotations

import signal
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptopt.cli_options import (
    AnswerPattern,
    ApiBase,
    Auto,
    BudgetTokens,
    Concurrency,
    ConfirmAbove,
    Description,
    DryRun,
    EmbeddingModel,
    Image,
    Input,
    JudgeModel,
    MaxTokens,
    Metric,
    Model,
    OptimizerModel,
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
    from promptopt.comparing import Comparing
    from promptopt.comparison import CompareResult
    from promptopt.grid import Asked

_EXIT = {"completed": EXIT_DONE, "incomplete": EXIT_FAILED, "interrupted": EXIT_INTERRUPTED}


def _blocks() -> list[str]:
    from promptopt.grid import BLOCKS

    return list(BLOCKS)


def compare(
    prompt_file: PromptFile,
    data: Annotated[list[str], typer.Option(help="a data set, as in optimize; repeat it for several")],
    optimizers: Annotated[str, typer.Option(help="strategies, such as capo,spo; or all")],
    model: Model,
    prompt: Annotated[
        list[str] | None, typer.Option(help="prompt of a data set that needs one of its own, DATA=FILE")
    ] = None,
    seeds: Annotated[int, typer.Option(help="runs of each strategy on each data set")] = 5,
    seed: Annotated[int, typer.Option(help="the first seed")] = 0,
    blocks: Annotated[
        str,
        typer.Option(help="what tests count as one: data, seed (data set and seed), auto", autocompletion=_blocks),
    ] = "auto",
    set_: Annotated[list[str] | None, typer.Option("--set", help="option of a strategy, strategy.k=v")] = None,
    metric: Metric = None,
    answer_pattern: AnswerPattern = None,
    description: Description = None,
    optimizer_model: OptimizerModel = None,
    judge_model: JudgeModel = None,
    embedding_model: EmbeddingModel = None,
    set_model: SetModel = None,
    api_base: ApiBase = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    input_: Input = None,
    target: Target = None,
    image: Image = None,
    auto: Auto = None,
    budget_usd: Annotated[str | None, typer.Option(help="most dollars of each run, proof included")] = None,
    budget_calls: Annotated[int | None, typer.Option(help="most answers used by each run, proof included")] = None,
    budget_tokens: BudgetTokens = None,
    confirm_above: ConfirmAbove = "5",
    proof_examples: Annotated[int | None, typer.Option(help="test examples of each run")] = None,
    concurrency: Concurrency = 16,
    rpm: Rpm = None,
    tpm: Tpm = None,
    max_tokens: MaxTokens = None,
    max_prompt_tokens: Annotated[int | None, typer.Option(help="longest prompt to try")] = None,
    out: Out = None,
    dry_run: DryRun = False,
    as_json: Annotated[bool, typer.Option("--json", help="print compare.json's content only")] = False,
    quiet: Quiet = False,
) -> None:
    """Compare strategies on equal budgets, with statistics.

    Runs every strategy on every data set with every seed. A call that two runs both make is paid once; the budget
    of each counts it as if it ran alone. Ctrl-C ends it orderly, and a run that fails does not lose the others:
    the same command with the same --out goes on. Exit status: 0 every run ended, 1 some failed, 2 wrong use, 130
    interrupted.
    """
    from promptopt import config as configs
    from promptopt import registry, roles
    from promptopt.bound import number_or_none
    from promptopt.grid import Asked, seeds_from
    from promptopt.types import Budget

    shows = Shows.of(confirm_above, None, dry_run=dry_run, as_json=as_json, quiet=quiet)
    names = [name.strip() for name in optimizers.split(",") if name.strip()]
    settings = configs.Settings(
        model=model,
        budget=Budget(number_or_none(budget_usd, "--budget-usd"), budget_calls, budget_tokens),
        auto=auto,
        optimizer_model=optimizer_model,
        judge_model=judge_model,
        embedding_model=embedding_model,
        model_options=roles.read_options(pairs(set_model or [], "--set-model")),
        api_base=api_base,
        price_in=number_or_none(price_in, "--price-in"),
        price_out=number_or_none(price_out, "--price-out"),
        proof_examples=proof_examples,
        concurrency=concurrency,
        rpm=rpm,
        tpm=tpm,
        max_tokens=max_tokens,
        max_prompt_tokens=max_prompt_tokens,
        out=out,
    )
    asked = Asked(
        data=tuple(data),
        optimizers=registry.optimizer_names() if names == ["all"] else tuple(names),
        seeds=seeds_from(seed, seeds),
        settings=settings,
        options=pairs(set_ or [], "--set"),
        blocks=blocks,  # type: ignore[arg-type]  # checked there
    )
    data_options = {
        "metric": metric,
        "target": target,
        "input": input_,
        "images": image,
        "description": description,
        "answer_pattern": answer_pattern,
    }
    found = _compare(prompt_file, asked, _prompts(prompt or [], data), data_options, shows)
    if found is not None:
        raise typer.Exit(_EXIT[found.status])


def _prompts(words: list[str], data: list[str]) -> dict[str, Path]:
    """Return the prompt files of single data sets.

    Raises:
        ConfigError: one is of no data set here, or a data set has two.
    """
    from promptopt.errors import ConfigError, nearest

    found: dict[str, Path] = {}
    for word in words:
        name = next((name for name in data if word.startswith(f"{name}=")), None)
        if name is None:
            raise ConfigError(f"--prompt {word}: write it as DATA=FILE; {nearest(word.partition('=')[0], data)}")
        if name in found:
            raise ConfigError(f"--prompt {name}= stands twice; give each data set one prompt")
        found[name] = Path(word.removeprefix(f"{name}="))
    return found


def _compare(
    prompt_file: Path, asked: Asked, prompts: dict[str, Path], data_options: dict[str, Any], shows: Shows
) -> CompareResult | None:
    from promptopt import api
    from promptopt.report import leave_report
    from promptopt.screen_compare import CompareScreen

    sources = {name: name for name in asked.data}
    comparing = api.prepare_comparison(
        prompt_file, sources, asked, prompts=prompts, is_command=True, **data_options
    )
    screen = CompareScreen(comparing, is_quiet=(shows.quiet or shows.as_json) and not shows.dry_run)
    screen.start(sys.stdout if shows.dry_run else None)
    if shows.dry_run:
        return None
    _ask(comparing, shows)
    try:
        found: CompareResult = api.run_in_thread(comparing, screen.watch)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        screen.end_watch()
        leave_at_once(comparing.folder)
    finally:
        screen.end_watch()
    why = leave_report(found)
    if shows.as_json:
        print_json(found.to_json())
    else:
        screen.result(found)
    if why:
        complain(why)
    if found.status == "incomplete":
        complain(found.reason)
    return found


def _ask(comparing: Comparing, shows: Shows) -> None:
    """Ask for leave to spend what the runs that have not ended may cost together.

    Raises:
        ConfigError: it was not given.
    """
    plans = comparing.plans_left()
    worst = [plan.forecast.worst_usd for plan in plans]
    known = [usd for usd in worst if usd is not None]
    total = sum(known, Decimal(0)) if len(known) == len(worst) else None
    models = {spec.name: spec for plan in plans for spec in plan.models.values()}
    if is_costly(total, shows.confirm_above, models.values()):
        confirm(total, models.values())
