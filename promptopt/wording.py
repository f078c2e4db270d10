"""Words, sums and consoles that every page of the screen shares. Texts of models and data steer no terminal."""

from __future__ import annotations

import os
import unicodedata
from decimal import Decimal
from typing import TextIO

from rich.console import Console

_PIPE_WIDTH = 100


def clean(text: str) -> str:
    """Return `text` without control and formatting characters: it may come from a model or from data."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co") else "�" for c in text
    )


def dollars(amount: Decimal | None) -> str:
    """Return an amount of dollars as text; None is unknown, not free."""
    if amount is None:
        return "unknown cost"
    return f"${amount:.2f}" if amount >= 1 or amount == 0 else f"${amount:.4f}"


def counted(n: int, word: str) -> str:
    """Return a number of things with their word in the right number."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"


class _Console(Console):
    """A console that never hides the cursor: then it cannot stay hidden, however the process ends."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


def console_of(file: TextIO) -> Console:
    """Return a console that shows texts as they are: no markup, no emoji names, no folding but in tables."""
    console = _Console(file=file, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPE_WIDTH
    return console


def short(text: str, width: int) -> str:
    """Return the beginning of a text on one line."""
    line = " ".join(clean(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def tail(text: str, width: int) -> str:
    """Return the end of a reply on one line: there stands the answer."""
    line = " ".join(clean(text).split())
    return line if len(line) <= width else "…" + line[-(width - 1) :]
