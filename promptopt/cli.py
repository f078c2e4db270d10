"""The command line. Only argument parsing is imported here; the work is imported when it is asked for."""

from __future__ import annotations

import gc
import io
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptopt.cli_compare import compare
from promptopt.cli_evaluate import evaluate
from promptopt.cli_judge import judge_check
from promptopt.cli_options import (
    AnswerPattern,
    ApiBase,
    Auto,
    BudgetSeconds,
    BudgetTokens,
    Concurrency,
    Config,
    ConfirmAbove,
    Data,
    Description,
    DryRun,
    EmbeddingModel,
    Image,
    Input,
    JudgeModel,
    MaxTokens,
    Metric,
    Model,
    Objectives,
    Optimizer,
    OptimizerModel,
    Out,
    PriceIn,
    PriceOut,
    Probe,
    PromptFile,
    Quiet,
    Race,
    Rpm,
    SetModel,
    Target,
    Tpm,
)
from promptopt.cli_replay import record, replay
from promptopt.cli_report import report
from promptopt.cli_run import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_WRONG_USE,
    Shows,
    complain,
    confirm,
    is_costly,
    leave_at_once,
    pairs,
    print_json,
)
from promptopt.cli_watch import watch
from promptopt.command import Command, Configured

if TYPE_CHECKING:
    from promptopt.config import Settings
    from promptopt.result import Result

_WIDTH, _MOST_WIDTH = 80, 100  # columns of lists: where no terminal tells, and at most

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from promptopt.result import package_version

        _print(f"promptopt {package_version()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="show the version", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Find a better prompt for a black-box LLM, at an agreed cost, with evidence on unseen data."""


@app.command(cls=Configured)
def optimize(
    prompt_file: PromptFile,
    data: Data,
    model: Model,
    optimizer: Optimizer = "auto",
    set_: Annotated[list[str] | None, typer.Option("--set", help="option of the strategy, k=v")] = None,
    objectives: Objectives = None,
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
    budget_usd: Annotated[str | None, typer.Option(help="most dollars, proof included")] = None,
    budget_calls: Annotated[int | None, typer.Option(help="most answers used, proof included")] = None,
    budget_tokens: BudgetTokens = None,
    budget_seconds: BudgetSeconds = None,
    confirm_above: ConfirmAbove = "5",
    proof_examples: Annotated[int | None, typer.Option(help="test examples for the proof; 0 = none")] = None,
    seed: Annotated[int, typer.Option(help="random seed of the whole run")] = 0,
    concurrency: Concurrency = 16,
    rpm: Rpm = None,
    tpm: Tpm = None,
    max_tokens: MaxTokens = None,
    max_prompt_tokens: Annotated[int | None, typer.Option(help="longest prompt to try")] = None,
    race: Race = None,
    probe: Probe = False,
    config: Config = None,
    out: Out = None,
    dry_run: DryRun = False,
    as_json: Annotated[bool, typer.Option("--json", help="print result.json's content only")] = False,
    quiet: Quiet = False,
) -> None:
    """Search a better prompt and prove it on unseen data.

    Budgets cover everything, the final proof included. Ctrl-C ends a run orderly; the same command with
    the same --out goes on with it. Options may also stand in promptopt.toml and in the prompt's front matter.
    Exit status: 0 done, 1 failed, 2 wrong use, 130 interrupted.
    """
    from promptopt import config as configs
    from promptopt import roles
    from promptopt.bound import number_or_none
    from promptopt.types import Budget

    shows = Shows.of(confirm_above, config, dry_run=dry_run, as_json=as_json, quiet=quiet)
    usd = number_or_none(budget_usd, "--budget-usd")
    settings = configs.Settings(
        model=model,
        optimizer=optimizer,
        options=pairs(set_ or [], "--set"),
        budget=Budget(usd, budget_calls, budget_tokens, budget_seconds),
        auto=auto,
        optimizer_model=optimizer_model,
        judge_model=judge_model,
        embedding_model=embedding_model,
        model_options=roles.read_options(pairs(set_model or [], "--set-model")),
        api_base=api_base,
        price_in=number_or_none(price_in, "--price-in"),
        price_out=number_or_none(price_out, "--price-out"),
        proof_examples=proof_examples,
        seed=seed,
        concurrency=concurrency,
        rpm=rpm,
        tpm=tpm,
        max_tokens=max_tokens,
        max_prompt_tokens=max_prompt_tokens,
        race=race,
        probe=probe,
        objectives=objectives,
        out=out,
    )
    data_options = {
        "metric": metric,
        "target": target,
        "input": input_,
        "images": image,
        "description": description,
        "answer_pattern": answer_pattern,
    }
    result = _run(prompt_file, data, settings, data_options, shows)
    if result is not None:
        raise typer.Exit({"failed": EXIT_FAILED, "interrupted": EXIT_INTERRUPTED}.get(result.status, EXIT_DONE))


app.command(cls=Configured)(evaluate)
app.command(cls=Command)(compare)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="where to write; must hold none of the files")] = Path(),
) -> None:
    """Write a prompt, data and options to start from.

    They run as they stand: `promptopt optimize` in that folder.
    """
    from promptopt import starter

    for path in starter.write(folder):
        _print(f"wrote {path}")
    where = "" if folder == Path() else f"cd {folder} && "
    _print(f"next: {where}promptopt optimize")


@app.command(cls=Command)
def simulate(
    port: Annotated[int, typer.Option(help="port to listen on; 0 = any free one")],
    data: Annotated[str | None, typer.Option(help="data that the simulator is to know, as in optimize")] = None,
    target: Annotated[str, typer.Option(help="column of the right answers")] = "target",
    host: Annotated[str, typer.Option(help="address to listen on, of this machine only")] = "127.0.0.1",
    landscape: Annotated[str, typer.Option(help="what the model sim is; sim:NAME is any other")] = "default",
    seed: Annotated[int, typer.Option(help="decides hard examples, jitter and faults")] = 0,
    latency_ms: Annotated[float, typer.Option(help="mean milliseconds of an answer")] = 0,
    jitter_ms: Annotated[float, typer.Option(help="most milliseconds off the mean")] = 0,
    calls_per_second: Annotated[float | None, typer.Option(help="answers a second; beyond them 429")] = None,
    tokens_per_minute: Annotated[float | None, typer.Option(help="tokens a minute; beyond them 429")] = None,
    fault_rate: Annotated[float, typer.Option(help="share of calls that fail, 0 to 1")] = 0,
    fault: Annotated[
        list[str] | None, typer.Option(help="kind, repeatable: see docs/simulator.md; else 500")
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(help="end by itself after so long")] = None,
) -> None:
    """Serve the built-in simulator on this machine.

    It speaks OpenAI's protocol, for trying pipelines. Prints its address for --api-base; the
    models are sim and sim:LANDSCAPE. Ctrl-C or SIGTERM ends it, status 0.
    """
    from promptopt import config, server

    options = server.ServerOptions(
        port=port,
        host=host,
        landscape=landscape,
        seed=seed,
        latency_ms=latency_ms,
        jitter_ms=jitter_ms,
        calls_per_second=calls_per_second,
        tokens_per_minute=tokens_per_minute,
        fault_rate=fault_rate,
        faults=tuple(fault or ()),
        max_seconds=max_seconds,
    )
    server.run_server(options, () if data is None else config.load_examples(data, target=target), _print_now)


app.command("judge-check", cls=Command)(judge_check)
app.command(cls=Command)(replay)
app.command(cls=Command)(record)
app.command(cls=Command)(report)
app.command(cls=Command)(watch)


@app.command()
def optimizers(
    name: Annotated[str | None, typer.Argument(help="a strategy, to see its options")] = None,
) -> None:
    """List the search strategies, or one's options.

    What each needs, its usual number of calls, its source, and when to choose it.
    """
    from promptopt import catalogue

    width = min(shutil.get_terminal_size((_WIDTH, 24)).columns, _MOST_WIDTH)
    for line in catalogue.overview(width) if name is None else catalogue.details(name, width):
        _print(line)


@app.command()
def tasks() -> None:
    """List the bundled tasks, and those of installed packages."""
    from promptopt import plugin
    from promptopt.tasks import bundled, plugged

    for name in bundled.names():
        task = bundled.describe(name)
        sizes = "/".join(str(task.sizes[split]) for split in bundled.SPLITS)
        _print(f"{name}: {task.description}")
        _print(f"  metric {task.metric}; train/dev/test {sizes}; licence {task.licence}")
        _print(f"  prompt: {bundled.folder(name) / bundled.PROMPT}")
    for name, package in plugin.installed(plugged.kind()):
        _print(f"{name}: of the package {package}")


@app.command()
def metrics() -> None:
    """List the metrics."""
    from promptopt import plugin
    from promptopt.tasks.metrics import METRICS, kind

    _print("auto: picked by looking at the targets (the default)")
    for name, meaning in METRICS.items():
        _print(f"{name}: {meaning}")
    for name, package in plugin.installed(kind()):
        _print(f"{name}: of the package {package}")


def main() -> None:
    """Run the command line; every error of ours is one message, without a traceback."""
    from promptopt.errors import ConfigError, PromptoptError

    gc.set_threshold(50_000)  # a run keeps most records that it makes; looking for garbage among them is in vain
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character must not end a run
    try:
        app()
    except ConfigError as error:
        complain(error)
        sys.exit(EXIT_WRONG_USE)
    except PromptoptError as error:
        complain(error)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more would end in the interpreter's own words
        sys.stderr.write("interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)


def _run(
    prompt_file: Path, data: str, settings: Settings, data_options: dict[str, Any], shows: Shows
) -> Result | None:
    from promptopt import api
    from promptopt.report import leave_report
    from promptopt.run import Run, check_simulator
    from promptopt.screen import Screen

    plan, front_matter = api.prepare(prompt_file, data, settings, is_command=True, **data_options)
    if shows.config is not None:
        plan = api.compared(plan, shows.config)
    if shows.dry_run:
        check_simulator(plan)
        screen = Screen(err=sys.stdout)
        screen.plan(plan)
        screen.forecast(plan)
        return None
    screen = Screen(is_quiet=shows.quiet or shows.as_json)
    if is_costly(plan.forecast.worst_usd, shows.confirm_above, plan.models.values()):
        confirm(plan.forecast.worst_usd, plan.models.values())
    run = Run(plan, front_matter=front_matter, announce=screen.start)
    try:
        result: Result = api.run_in_thread(run, screen.watch)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        screen.end_watch(run)
        leave_at_once(run.folder)
    finally:
        screen.end_watch(run)
    if shows.as_json:
        print_json(result.to_json())
    else:
        screen.result(result, run)
    if why := leave_report(result):
        complain(why)
    elif not shows.as_json:
        screen.report(result)
    if result.status == "failed":
        complain(result.reason)
    return result


def _print(line: str) -> None:
    """Print a line, without characters that steer a terminal: plug-ins and folders are named by others."""
    from promptopt.screen import clean

    sys.stdout.write(clean(line) + "\n")


def _print_now(line: str) -> None:
    _print(line)
    sys.stdout.flush()
