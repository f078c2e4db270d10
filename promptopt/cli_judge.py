"""The command `promptopt judge-check`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptopt.cli_options import ApiBase, Concurrency, ConfirmAbove, DryRun, PriceIn, PriceOut, SetModel
from promptopt.cli_run import (
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
    from promptopt.judge_check import Check, Report


def judge_check(
    rubric: Annotated[str, typer.Option(help="the judge's rubric, a Markdown file")],
    data: Annotated[Path, typer.Option(help="rows with reply, score (0 to 1, or yes/no) and the inputs")],
    model: Annotated[str, typer.Option(help="the judge: any litellm name, or sim (built-in simulator)")],
    repeats: Annotated[int, typer.Option(help="ratings of each reply")] = 3,
    set_model: SetModel = None,
    api_base: ApiBase = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    budget_usd: Annotated[str | None, typer.Option(help="most dollars")] = None,
    budget_calls: Annotated[int | None, typer.Option(help="most answers used")] = None,
    confirm_above: ConfirmAbove = "5",
    concurrency: Concurrency = 16,
    out: Annotated[Path | None, typer.Option(help="folder of the journal; nothing in it is paid again")] = None,
    dry_run: DryRun = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
) -> None:
    """Compare a rubric judge with labels by hand.

    Shows how far they agree, and how much the judge varies when it is asked again. Exit status: 0 done, 1 failed
    or incomplete, 2 wrong use, 130 interrupted.
    """
    from promptopt import config, judge_check, roles
    from promptopt.bound import number_or_none
    from promptopt.screen import clean
    from promptopt.types import Budget

    shows = Shows.of(confirm_above, None, dry_run=dry_run, as_json=as_json, quiet=as_json)
    settings = config.Settings(
        model,
        budget=Budget(number_or_none(budget_usd, "--budget-usd"), budget_calls),
        model_options=roles.read_options(pairs(set_model or [], "--set-model")),
        api_base=api_base,
        price_in=number_or_none(price_in, "--price-in"),
        price_out=number_or_none(price_out, "--price-out"),
        concurrency=concurrency,
        out=out,
    )
    check = judge_check.make_check(rubric, data, settings, repeats=repeats)
    for note in () if as_json else check.notes:
        sys.stderr.write(clean(note) + "\n")
    report = _check(check, shows)
    if report is None:
        return
    if as_json:
        print_json(report.to_json())
    else:
        sys.stdout.write("\n".join(map(clean, judge_check.lines(report))) + "\n")
    if report.status == "interrupted":
        raise typer.Exit(EXIT_INTERRUPTED)
    if report.reason:
        raise typer.Exit(EXIT_FAILED)


def _check(check: Check, shows: Shows) -> Report | None:
    """Return the report of a check; None = only its forecast was wanted."""
    from promptopt import api
    from promptopt.errors import Interrupted
    from promptopt.screen_evaluation import forecast_line

    if shows.dry_run:
        sys.stdout.write(forecast_line(check.estimate) + "\n")
        return None
    if is_costly(check.estimate.worst_usd, shows.confirm_above, [check.judge]):
        confirm(check.estimate.worst_usd)
    has_told = False

    def tell(check: Check) -> None:
        nonlocal has_told
        if check.stop.is_set and not has_told:
            has_told = True
            sys.stderr.write("stopping: waiting for the calls in flight (Ctrl-C again leaves at once)\n")

    try:
        report: Report = api.run_in_thread(check, tell)
    except Interrupted as error:
        complain(error)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        leave_at_once(check.folder)
    return report
