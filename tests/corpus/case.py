"""A hostile input: the files that it lays down, the command that reads them, and what must be said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Content = str | bytes | Callable[[Path], object]  # a function lays down something else than a plain file

PROMPT = "Name the colour of {{item}}."
COLOURS = ("red", "blue")


def rows(*lines: str, header: str = "item,target", n: int = 60) -> str:
    """Return a sound table, and then other lines."""
    return "\n".join([header, *(f"thing {i},{COLOURS[i % 2]}" for i in range(n)), *lines]) + "\n"


def records(*lines: str, n: int = 60) -> str:
    """Return sound JSON Lines, and then other lines."""
    good = [f'{{"item": "thing {i}", "target": "{COLOURS[i % 2]}"}}' for i in range(n)]
    return "\n".join([*good, *lines]) + "\n"


def hole(size: int) -> Callable[[Path], None]:
    """Return what lays down a file of so many NULs that takes no room."""

    def lay(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return lay


@dataclass(frozen=True)
class Case:
    """One input.

    Args:
        name: what is wrong with it.
        says: pattern of the one line on stderr, status 2; "" = the input is right after all.
        files: what is laid down beside a sound prompt.md and data.csv, or in their place.
        words: what the command line says besides; `--data` and the prompt too, if they are others.
        shows: pattern of what is printed where the input is right, which a dry run tells.
        command: other words in place of the usual command.
    """

    name: str
    says: str
    files: Mapping[str, Content] = field(default_factory=dict)
    words: tuple[object, ...] = ()
    shows: str = "forecast"
    command: tuple[object, ...] = ()


def prompt(
    name: str, content: Content, says: str = "", *, file: str = "prompt.md", shows: str = "forecast"
) -> Case:
    """Return a case of a prompt file."""
    return Case(name, says, {file: content}, shows=shows)


def data(name: str, content: Content, says: str = "", *, file: str = "data.csv", shows: str = "forecast") -> Case:
    """Return a case of a data file."""
    return Case(name, says, {file: content}, ("--data", file), shows)


def words(name: str, said: str, says: str = "", *, shows: str = "forecast") -> Case:
    """Return a case of words on the command line."""
    return Case(name, says, words=tuple(said.split(" ")), shows=shows)
