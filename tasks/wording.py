"""How metrics read targets and word what was wrong."""

from __future__ import annotations

import json
import unicodedata

from promptopt import tables
from promptopt.errors import TaskError
from promptopt.types import Example

_LONGEST = 80


def target_of(example: Example, name: str) -> str:
    """Return the target of an example for the metric called `name`.

    Raises:
        TaskError: it has none.
    """
    if example.target is None:
        raise TaskError(f"example {example.id!r} has no target; metric {name!r} compares with it")
    return example.target


def texts_of(target: str) -> tuple[str, ...]:
    """Return the texts of a target: those of a JSON list of texts, else the target itself."""
    return tables.text_list(target) or (target,)


def entries_of(target: str) -> tuple[str, ...]:
    """Return what a target that is a JSON list of texts and numbers lists, as texts; else the target itself."""
    try:
        found = tables.as_alternatives(json.loads(target)) if target.lstrip().startswith("[") else None
    except (ValueError, RecursionError):
        found = None
    return found or (target,)


def spaced(text: str) -> str:
    """Return `text` in compatibility form (NFKC), runs of whitespace as one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def short(text: str) -> str:
    """Return `text` in quotes, on one line of at most 80 characters."""
    shown = " ".join(text.split())
    return repr(shown if len(shown) <= _LONGEST else shown[: _LONGEST - 3] + "...")


def alternatives(texts: tuple[str, ...]) -> str:
    """Return `'a'`, or `one of 'a', 'b'`; of many the first three."""
    if len(texts) == 1:
        return short(texts[0])
    more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    return f"one of {', '.join(map(short, texts[:3]))}{more}"
