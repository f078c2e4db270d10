"""What commands share that spend: the exit statuses, leave to spend, how they end, what they print."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from promptopt.providers import ModelSpec

EXIT_DONE, EXIT_FAILED, EXIT_WRONG_USE, EXIT_INTERRUPTED = 0, 1, 2, 130
_LONGEST_ERROR = 2000  # characters that are printed


@dataclass(frozen=True)
class Shows:
    """What a run asks and prints.

    Args:
        confirm_above: dollars above which a person is asked first; None = never asked.
        config: settings file of the command line.
    """

    confirm_above: Decimal | None
    config: Path | None
    dry_run: bool
    as_json: bool
    quiet: bool

    @staticmethod
    def of(confirm_above: str, config: Path | None, *, dry_run: bool, as_json: bool, quiet: bool) -> Shows:
        """Return what the command line says of it.

        Raises:
            ConfigError: it contradicts itself, or the dollars are no number.
        """
        from promptopt.bound import number
        from promptopt.errors import ConfigError

        if dry_run and as_json:
            raise ConfigError("--dry-run has no result to print as JSON; leave --json out")
        limit = None if confirm_above.lower() == "none" else number(confirm_above, "--confirm-above")
        return Shows(limit, config, dry_run=dry_run, as_json=as_json, quiet=quiet)


def is_costly(worst_usd: Decimal | None, limit: Decimal | None, models: Iterable[ModelSpec]) -> bool:
    """Return whether somebody sits there to be asked, and real models may cost more than the limit.

    Args:
        worst_usd: None = there is no bound, or a price is unknown; what is not known to be free may cost much.
        limit: None = nobody is to be asked.
    """
    is_person = sys.stdin.isatty() and sys.stderr.isatty()
    costly = [spec for spec in models if not spec.is_simulated and _may_cost(spec)]
    return is_person and limit is not None and bool(costly) and (worst_usd is None or worst_usd > limit)


def _may_cost(spec: ModelSpec) -> bool:
    """Return whether a model may cost money: it has a price, or none is known and the server is not one's own."""
    from promptopt.address import is_local
    from promptopt.reply import OLLAMA

    if spec.price_in is not None:
        return not spec.is_free
    return not (spec.name.startswith(OLLAMA) if spec.api_base is None else is_local(spec.api_base))


def confirm(worst_usd: Decimal | None, models: Iterable[ModelSpec] = ()) -> None:
    """Ask for leave to spend.

    Args:
        models: those of the run, which tell an unknown sum for want of a price from one without bound.

    Raises:
        ConfigError: it was not given.
    """
    from promptopt.errors import ConfigError
    from promptopt.screen import clean
    from promptopt.wording import dollars

    what = f"this may cost up to {dollars(worst_usd)}"
    if worst_usd is None:
        unpriced = [spec.name for spec in models if spec.price_in is None]
        why = f"the price of {unpriced[0]} is unknown" if unpriced else "no calls, tokens or dollars are limited"
        what = f"this may cost any sum: {why}"
    sys.stderr.write(f"{clean(what)}; go on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigError(
            "not started, nothing was spent; lower the budget, tell the price (--price-in, --price-out), or raise "
            "--confirm-above (none = never ask)"
        )


def print_json(text: str) -> None:
    """Print JSON to stdout as UTF-8, whatever the terminal speaks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    sys.stdout.write(text)


def leave_at_once(folder: Path) -> NoReturn:
    """End the process without waiting for calls in flight, nor for threads of the user's functions."""
    from promptopt.screen import clean

    sys.stderr.write(
        "interrupted at once; answers that had arrived are kept. "
        f"To go on, run the same command with --out {clean(str(folder))}\n"
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_INTERRUPTED)


def pairs(words: list[str], flag: str) -> dict[str, str]:
    """Return `name=value` words as a mapping, dashes in names as underscores."""
    from promptopt.errors import ConfigError

    pairs: dict[str, str] = {}
    for word in words:
        key, sign, value = word.partition("=")
        key = key.strip().replace("-", "_")
        if not sign or not key:
            raise ConfigError(f"{flag} {word}: write it as name=value")
        if key in pairs:
            raise ConfigError(f"{flag} {key} stands twice; give each option once")
        pairs[key] = value.strip()
    return pairs


def complain(error: object) -> None:
    """Print an error to stderr, without keys, and without characters that steer a terminal."""
    from promptopt import secret
    from promptopt.screen import clean

    text = " ".join(
        clean(secret.clean(str(error))).splitlines()
    )  # data and models may have written lines of their own
    if len(text) > _LONGEST_ERROR:  # a value that is shown must not bury what is wrong with it
        text = f"{text[: _LONGEST_ERROR // 2]} [...] {text[-_LONGEST_ERROR // 2 :]}"
    sys.stderr.write(f"error: {text}\n")
