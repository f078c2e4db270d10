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
        confirm_above: dollars above which a person is asked first.
        config: settings file of the command line.
    """

    confirm_above: Decimal
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
        limit = number(confirm_above, "--confirm-above")
        return Shows(limit, config, dry_run=dry_run, as_json=as_json, quiet=quiet)


def is_costly(worst_usd: Decimal | None, limit: Decimal, models: Iterable[ModelSpec]) -> bool:
    """Return whether somebody sits there to be asked, and real models may cost more than the limit."""
    is_person = sys.stdin.isatty() and sys.stderr.isatty()
    is_real = any(not spec.is_simulated for spec in models)
    return is_person and is_real and worst_usd is not None and worst_usd > limit


def confirm(worst_usd: Decimal | None) -> None:
    """Ask for leave to spend.

    Raises:
        ConfigError: it was not given.
    """
    from promptopt.errors import ConfigError
    from promptopt.screen import dollars

    sys.stderr.write(f"this may cost up to {dollars(worst_usd)}; go on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigError("not started, nothing was spent; lower the budget, or raise --confirm-above")


def print_json(text: str) -> None:
    """Print JSON to stdout as UTF-8, whatever the terminal speaks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    sys.stdout.write(text)


def leave_at_once(folder: Path) -> NoReturn:
    """End the process without waiting for calls in flight, nor for threads of the user's functions."""
    sys.stderr.write(
        "interrupted at once; answers that had arrived are kept. "
        f"To go on, run the same command with --out {folder}\n"
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
    """Print an error to stderr, without characters that steer a terminal."""
    from promptopt.screen import clean

    text = clean(str(error))
    if len(text) > _LONGEST_ERROR:  # a value that is shown must not bury what is wrong with it
        text = f"{text[: _LONGEST_ERROR // 2]} [...] {text[-_LONGEST_ERROR // 2 :]}"
    sys.stderr.write(f"error: {text}\n")
