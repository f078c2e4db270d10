"""How notebooks show a result, and its table of prompts."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from promptopt import promptfile
from promptopt.errors import ConfigError
from promptopt.report.difference import pieces
from promptopt.report.page import fragment
from promptopt.report.words import headline_of, split
from promptopt.result import Result
from promptopt.wording import dollars

if TYPE_CHECKING:
    import pandas


def html_of(result: Result) -> str:
    """Return a result as HTML without a style sheet or script, for a cell's output; all texts are escaped."""
    return fragment(
        "result.html.jinja",
        result=result,
        headline=headline_of(result),
        simulated=[role for role, model in result.models.items() if model["is_simulated"]],
        change=pieces(result.initial.prompt, result.best.prompt),
        split=split,
        dollars=dollars,
    )


def dataframe_of(result: Result) -> pandas.DataFrame:
    """Return the table of a run's prompts; see `Result.to_dataframe`."""
    from promptopt.report.reading import read_story

    if find_spec("pandas") is None:
        raise ConfigError("to_dataframe needs pandas, which is not installed: pip install pandas")
    if result.out is None:
        raise ConfigError("the result has no run folder, which the table is read from; read it from its folder")
    import pandas

    story = read_story(Path(result.out))
    rows = [
        {
            "number": entry.number,
            "id": entry.candidate.id,
            "operator": entry.candidate.operator,
            "parents": entry.parents,
            "dev_score": entry.dev,
            "n_dev": entry.n_dev,
            "prompt_tokens": entry.tokens,
            "calls": entry.calls,
            "cost_usd": None if entry.usd is None else float(entry.usd),
            "is_accepted": entry.is_accepted,
            "is_best": entry.number == story.best,
            "prompt": promptfile.format_prompt(entry.candidate.prompt, story.front_matter),
        }
        for entry in story.entries
    ]
    frame = pandas.DataFrame(rows)
    return frame.astype({"dev_score": "float64", "calls": "Int64", "cost_usd": "float64"})
