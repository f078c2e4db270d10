"""Reads `result.json` and `compare.json` back, every field checked: they may have been edited, or be anybody's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from promptopt.comparison import JSON_NAME, CompareResult
from promptopt.errors import ConfigError
from promptopt.result import Result

T = TypeVar("T")

_MOST_BYTES = 250_000_000


def read_result(folder: Path) -> Result | None:
    """Return the result that lies in a run folder; None = its run has not ended.

    Raises:
        ConfigError: it cannot be read, or is none of a run.
    """
    path = folder / "result.json"
    return replace(_read(path, Result, "run"), out=str(folder)) if path.exists() else None


def read_comparison(folder: Path) -> CompareResult | None:
    """Return the comparison that lies in a folder; None = there is none.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    path = folder / JSON_NAME
    return replace(_read(path, CompareResult, "comparison"), out=str(folder)) if path.exists() else None


def _read(path: Path, kind: type[T], what: str) -> T:
    from pydantic import TypeAdapter, ValidationError

    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has over {_MOST_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8")
        json.loads(text, parse_constant=_refuse)
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path} is none of a {what}: {place}: {first['msg']}; make the {what} anew") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); is it the folder of a {what}?") from error


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
