"""Regular expressions that users give, with a limit of time: some need ages on a text that nearly matches."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from promptopt.errors import ConfigError, TaskError

if TYPE_CHECKING:
    import regex

TIMEOUT_S = 1.0


@lru_cache(maxsize=10_000)
def compiled(pattern: str) -> regex.Pattern[str]:
    """Return `pattern` compiled, in the syntax of Python's `re` (and what the package `regex` adds).

    Raises:
        ConfigError: it is no regular expression.
    """
    import regex

    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"{pattern!r:.100} is no regular expression ({error})") from error


def is_found(pattern: str, text: str, *, is_whole: bool) -> bool:
    """Return whether `pattern` matches all of `text` (`is_whole`), or else something in it.

    Raises:
        TaskError: it takes longer than TIMEOUT_S seconds.
    """
    found = compiled(pattern)
    try:
        match = found.fullmatch(text, timeout=TIMEOUT_S) if is_whole else found.search(text, timeout=TIMEOUT_S)
    except TimeoutError as error:
        raise _too_slow(pattern, text) from error
    return match is not None


def last_group(pattern: str, group: str | int, text: str) -> str | None:
    """Return the group of the last match of `pattern` in `text`; None = no match, or none of that group.

    Raises:
        TaskError: it takes longer than TIMEOUT_S seconds.
    """
    last = None
    try:
        for match in compiled(pattern).finditer(text, timeout=TIMEOUT_S):
            last = match
    except TimeoutError as error:
        raise _too_slow(pattern, text) from error
    return None if last is None else last.group(group)


def _too_slow(pattern: str, text: str) -> TaskError:
    return TaskError(
        f"the regular expression {pattern!r:.100} takes over {TIMEOUT_S:g} s on a text of {len(text)} characters; "
        "repeats within repeats, such as (a+)+, do that: write it simpler"
    )
