"""The command `promptopt judge-check`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from promptopt.cli_options import ApiBase, Concurrency, PriceIn, PriceOut


def judge_check(
    rubric: Annotated[str, typer.Option(help="the judge's rubric, a Markdown file")],
    data: Annotated[Path, typer.Option(help="rows with reply, score (0 to 1, or yes/no) and the inputs")],
    model: Annotated[str, typer.Option(help="the judge: any litellm name, or sim (built-in simulator)")],
    repeats: Annotated[int, typer.Option(help="ratings of each reply")] = 3,
    api_base: ApiBase = None,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    budget_usd: Annotated[str | None, typer.Option(help="most dollars")] = None,
    budget_calls: Annotated[int | None, typer.Option(help="most answers used")] = None,
    concurrency: Concurrency = 16,
    out: Annotated[Path | None, typer.Option(help="folder of the journal; nothing in it is paid again")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
) -> None:
    """Compare a rubric judge with labels by hand.

    Shows how far they agree, and how much the judge varies when it is asked again. Exit status: 0 done, 1 failed,
    2 wrong use.
    """
    import asyncio

    from promptopt import config, judge_check
    from promptopt.bound import number_or_none
    from promptopt.providers import closing
    from promptopt.screen import clean
    from promptopt.types import Budget

    settings = config.Settings(
        model,
        budget=Budget(number_or_none(budget_usd, "--budget-usd"), budget_calls),
        api_base=api_base,
        price_in=number_or_none(price_in, "--price-in"),
        price_out=number_or_none(price_out, "--price-out"),
        concurrency=concurrency,
        out=out,
    )
    check = judge_check.make_check(rubric, data, settings, repeats=repeats)
    for note in () if as_json else check.notes:
        sys.stderr.write(clean(note) + "\n")
    report = asyncio.run(closing(check.run()))
    text = "\n".join(map(clean, judge_check.lines(report))) + "\n"
    sys.stdout.write(report.to_json() if as_json else text)
