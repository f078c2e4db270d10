"""What litellm said of the models of a run, kept in its folder: with it, answers from the journal need no litellm.

It holds no key, no address and no setting of the user; with another version of litellm it counts for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from importlib.metadata import version
from pathlib import Path
from typing import Any

from promptopt.decoding import read_bytes
from promptopt.facts import Facts
from promptopt.providers import ModelSpec

NAME = "models.json"
_PRICES = ("price_in", "price_out")
_MOST_BYTES = 10_000_000
_SPOILED = (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidOperation, RecursionError)


def read(folder: Path, *, is_any_version: bool = False) -> dict[str, Facts]:
    """Return the facts that lie in a run's folder, by the question that they answer; none if they are outdated.

    Args:
        is_any_version: also those of another version of litellm, for who goes through the same run again.
    """
    try:
        found = json.loads(read_bytes(folder / NAME, _MOST_BYTES))
        if found["litellm"] != version("litellm") and not is_any_version:
            return {}
        return facts_of(found["facts"])
    except _SPOILED:
        return {}  # absent, or spoiled: they are looked up again


def text(folder: Path, specs: Iterable[ModelSpec]) -> str:
    """Return the file with the facts of these models added to those that lie in a run's folder."""
    facts = {**read(folder), **{spec.question: spec.facts for spec in specs if not spec.is_simulated}}
    return json.dumps({"litellm": version("litellm"), "facts": rows_of(facts)}, indent=2) + "\n"


def rows_of(facts: Mapping[str, Facts]) -> dict[str, dict[str, Any]]:
    """Return facts by question, as JSON."""
    rows = {question: asdict(known) for question, known in sorted(facts.items())}
    plain: dict[str, dict[str, Any]] = json.loads(json.dumps(rows, default=str))
    return plain


def facts_of(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Facts]:
    """Return facts by question from their JSON.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, InvalidOperation: they are none.
    """
    return {question: _facts(fields) for question, fields in rows.items()}


def _facts(fields: Mapping[str, Any]) -> Facts:
    """Return facts from their JSON; raise ValueError or TypeError where a field is none that they can have."""
    price_in, price_out = (None if fields[name] is None else Decimal(fields[name]) for name in _PRICES)
    if not all(price is None or (price.is_finite() and price >= 0) for price in (price_in, price_out)):
        raise ValueError(f"prices {price_in}, {price_out}")
    flags = {name: value for name, value in fields.items() if name not in _PRICES}
    if not all(isinstance(value, bool) or (name, value) == ("sees_images", None) for name, value in flags.items()):
        raise ValueError(f"flags {flags}")
    return Facts(price_in, price_out, **flags)
