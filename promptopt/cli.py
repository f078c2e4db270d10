"""The command line. Only argument parsing is imported here; the work is imported when it is asked for."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from promptopt.config import Settings
    from promptopt.result import Result
    from promptopt.run import Run

_WIDTH, _MOST_WIDTH = 80, 100  # columns of lists: where no terminal tells, and at most
EXIT_DONE, EXIT_FAILED, EXIT_WRONG_USE, EXIT_INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Find a better prompt for a black-box LLM, at an agreed cost, with evidence on unseen data.",
)


@app.command()
def optimize(
    prompt_file: Annotated[Path, typer.Argument(help="prompt to improve: text or Markdown")],
    data: Annotated[str, typer.Option(help="JSONL or CSV file, folder with train/dev/test, or bundled task")],
    model: Annotated[str, typer.Option(help="task model: any litellm name, or sim (built-in simulator)")],
    optimizer: Annotated[str, typer.Option(help="strategy; auto picks one")] = "auto",
    set_: Annotated[list[str] | None, typer.Option("--set", help="option of the strategy, k=v")] = None,
    metric: Annotated[str | None, typer.Option(help="auto, none, or see `promptopt metrics`")] = None,
    description: Annotated[str | None, typer.Option(help="the task in a sentence, for the optimizer")] = None,
    optimizer_model: Annotated[str | None, typer.Option(help="model that writes prompts; else --model")] = None,
    judge_model: Annotated[str | None, typer.Option(help="model that judges; else --model")] = None,
    embedding_model: Annotated[str | None, typer.Option(help="model for word vectors, where they help")] = None,
    api_base: Annotated[str | None, typer.Option(help="address of an OpenAI-compatible server")] = None,
    price_in: Annotated[str | None, typer.Option(help="dollars per million input tokens")] = None,
    price_out: Annotated[str | None, typer.Option(help="dollars per million output tokens")] = None,
    input_: Annotated[str | None, typer.Option("--input", help="column of the input text")] = None,
    target: Annotated[str | None, typer.Option(help="column of the right answers [target]")] = None,
    budget_usd: Annotated[str | None, typer.Option(help="most dollars, proof included")] = None,
    budget_calls: Annotated[int | None, typer.Option(help="most answers used, proof included")] = None,
    budget_tokens: Annotated[int | None, typer.Option(help="most tokens, in and out")] = None,
    budget_seconds: Annotated[float | None, typer.Option(help="most seconds")] = None,
    proof_examples: Annotated[int | None, typer.Option(help="test examples for the proof; 0 = none")] = None,
    seed: Annotated[int, typer.Option(help="random seed of the whole run")] = 0,
    concurrency: Annotated[int, typer.Option(help="calls in flight at most")] = 16,
    rpm: Annotated[int | None, typer.Option(help="calls a minute at most, of each endpoint")] = None,
    tpm: Annotated[int | None, typer.Option(help="tokens a minute at most, of each endpoint")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="most output tokens of an answer")] = None,
    max_prompt_tokens: Annotated[int | None, typer.Option(help="longest prompt to try")] = None,
    out: Annotated[Path | None, typer.Option(help="run folder; an existing run there goes on")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the forecast, spend nothing")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print result.json's content only")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no notes, no progress")] = False,
) -> None:
    """Search a better prompt and prove it on unseen data.

    Budgets cover everything, the final proof included. Ctrl-C ends a run orderly; the same command with
    the same --out goes on with it. Exit status: 0 done, 1 failed, 2 wrong use, 130 interrupted.
    """
    from promptopt import config
    from promptopt.errors import ConfigError
    from promptopt.types import Budget

    if dry_run and as_json:
        raise ConfigError("--dry-run has no result to print as JSON; leave --json out")
    usd = None if budget_usd is None else config.number(budget_usd, "--budget-usd")
    settings = config.Settings(
        model=model,
        optimizer=optimizer,
        options=_options(set_ or []),
        budget=Budget(usd, budget_calls, budget_tokens, budget_seconds),
        optimizer_model=optimizer_model,
        judge_model=judge_model,
        embedding_model=embedding_model,
        api_base=api_base,
        price_in=None if price_in is None else config.number(price_in, "--price-in"),
        price_out=None if price_out is None else config.number(price_out, "--price-out"),
        proof_examples=proof_examples,
        seed=seed,
        concurrency=concurrency,
        rpm=rpm,
        tpm=tpm,
        max_tokens=max_tokens,
        max_prompt_tokens=max_prompt_tokens,
        out=out,
    )
    data_options = {"metric": metric, "target": target, "input": input_, "description": description}
    result = _run(prompt_file, data, settings, data_options, dry_run=dry_run, as_json=as_json, quiet=quiet)
    if result is not None:
        raise typer.Exit({"failed": EXIT_FAILED, "interrupted": EXIT_INTERRUPTED}.get(result.status, EXIT_DONE))


@app.command()
def optimizers(
    name: Annotated[str | None, typer.Argument(help="a strategy, to see its options")] = None,
) -> None:
    """List the search strategies: what each needs, its usual calls, when to choose it; or one's options."""
    from promptopt import catalogue

    width = min(shutil.get_terminal_size((_WIDTH, 24)).columns, _MOST_WIDTH)
    for line in catalogue.overview(width) if name is None else catalogue.details(name, width):
        _print(line)


@app.command()
def tasks() -> None:
    """List the bundled tasks."""
    from promptopt.tasks import bundled

    for name in bundled.names():
        task = bundled.describe(name)
        sizes = "/".join(str(task.sizes[split]) for split in bundled.SPLITS)
        _print(f"{name}: {task.description}")
        _print(f"  metric {task.metric}; train/dev/test {sizes}; licence {task.licence}")
        _print(f"  prompt: {bundled.folder(name) / bundled.PROMPT}")


@app.command()
def metrics() -> None:
    """List the metrics."""
    from promptopt.tasks.metrics import METRICS

    _print("auto: picked by looking at the targets (the default)")
    for name, meaning in METRICS.items():
        _print(f"{name}: {meaning}")


def main() -> None:
    """Run the command line; every error of ours is one message, without a traceback."""
    from promptopt.errors import ConfigError, PromptoptError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character must not end a run
    try:
        app()
    except ConfigError as error:
        _complain(error)
        sys.exit(EXIT_WRONG_USE)
    except PromptoptError as error:
        _complain(error)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more would end in the interpreter's own words
        sys.stderr.write("interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)


def _run(
    prompt_file: Path,
    data: str,
    settings: Settings,
    data_options: dict[str, Any],
    *,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> Result | None:
    from promptopt import run as runs
    from promptopt.screen import Screen

    plan, front_matter = runs.prepare(prompt_file, data, settings, **data_options)
    if dry_run:
        runs.check_simulator(plan)
        Screen(err=sys.stdout).plan(plan)
        return None
    screen = Screen(is_quiet=quiet or as_json)
    run = runs.Run(plan, front_matter=front_matter, announce=screen.start)
    try:
        result = runs.run_in_thread(run, screen.watch)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        screen.end_watch(run)
        _leave_at_once(run)
    finally:
        screen.end_watch(run)
    if as_json:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        sys.stdout.write(result.to_json())
    else:
        screen.result(result, run)
    if result.status == "failed":
        _complain(result.reason)
    return result


def _leave_at_once(run: Run) -> NoReturn:
    """End the process without waiting for calls in flight, nor for threads of the user's functions."""
    sys.stderr.write(
        "interrupted at once; answers that had arrived are kept. "
        f"To go on, run the same command with --out {run.folder}\n"
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_INTERRUPTED)


def _options(pairs: list[str]) -> dict[str, str]:
    from promptopt.errors import ConfigError

    options: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not sign or not key:
            raise ConfigError(f"--set {pair}: write it as name=value")
        if key in options:
            raise ConfigError(f"--set {key} stands twice; give each option once")
        options[key] = value.strip()
    return options


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")


def _complain(error: object) -> None:
    from promptopt.screen import clean

    sys.stderr.write(f"error: {clean(str(error))}\n")
