"""Reads `result.json` back, every field checked: it may have been edited, cut, or come from anybody."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from promptopt.errors import ConfigError
from promptopt.result import Result

_MOST_BYTES = 250_000_000


def read_result(folder: Path) -> Result | None:
    """Return the result that lies in a run folder; None = its run has not ended.

    Raises:
        ConfigError: it cannot be read, or is none of a run.
    """
    from pydantic import TypeAdapter, ValidationError

    path = folder / "result.json"
    if not path.exists():
        return None
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has over {_MOST_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8")
        json.loads(text, parse_constant=_refuse)
        found = TypeAdapter(Result).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path} is none of a run: {place}: {first['msg']}; make the run anew") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); is it the folder of a run?") from error
    return replace(found, out=str(folder))


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
