"""A terminal as tests need it: what stands on its screen in the end, and programs that run on a real one."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from fcntl import ioctl

_CODE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|(\r\n|\r|\n)|([^\x00-\x1f\x7f-\x9f])|(.)", re.DOTALL)
_PATIENCE_S = 60.0


class Terminal(io.StringIO):
    """A file that says of itself that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Emulator:
    """The lines of a screen after what was written to it; refuses every code but a few that move and erase.

    Those are: carriage return, line feed, cursor up, erase line, and colours. So a hidden cursor, another screen
    or a title is an error.
    """

    def __init__(self, text: str = "") -> None:
        self.lines = [""]
        self._y = self._x = 0
        self.feed(text)

    def feed(self, text: str) -> None:
        for count, letter, control, character, other in _CODE.findall(text):
            assert not other, f"control {other!r}"
            if letter:
                self._obey(count, letter)
            elif control:
                self._x = 0
                self._y += "\n" in control
                self.lines += [""] * (self._y + 1 - len(self.lines))
            else:
                line = self.lines[self._y].ljust(self._x)
                self.lines[self._y] = line[: self._x] + character + line[self._x + 1 :]
                self._x += 1

    def _obey(self, count: str, letter: str) -> None:
        if letter == "A":
            self._y -= int(count or 1)
            assert self._y >= 0, "the cursor leaves the screen"
        elif letter == "K":
            assert count in ("2", "0", ""), count
            self.lines[self._y] = "" if count == "2" else self.lines[self._y][: self._x]
        else:
            assert letter == "m", f"code {count}{letter}"

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines)


class OnTerminal:
    """A program whose stderr, and stdout unless it is a pipe, are a pseudo-terminal of a size."""

    def __init__(
        self,
        words: Sequence[object],
        *,
        env: Mapping[str, str],
        size: tuple[int, int] = (100, 40),
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> None:
        self._master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        plain = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")}
        self.process = subprocess.Popen(
            [str(word) for word in words],
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave if stderr is None else stderr,
            env={**plain, "TERM": "xterm", **env},
            start_new_session=True,
        )
        os.close(slave)
        self.written = ""

    def read_until(self, is_enough: Callable[[str], bool]) -> None:
        """Read what is written until it is enough; fail if the program ends before."""
        deadline = time.monotonic() + _PATIENCE_S
        while not is_enough(self.written):
            assert self._read(deadline), f"ended too early: {self.written[-2000:]}"

    def finish(self) -> int:
        """Read to the end and return the exit status."""
        deadline = time.monotonic() + _PATIENCE_S
        while self._read(deadline):
            pass
        os.close(self._master)
        return self.process.wait(_PATIENCE_S)

    def _read(self, deadline: float) -> bool:
        """Take what was written; return False if nothing more will come."""
        if not select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))[0]:
            self.process.kill()
            raise AssertionError(f"nothing more came: {self.written[-2000:]}")
        try:
            piece = os.read(self._master, 65536)
        except OSError:  # Linux's way to say that nobody has the other end open
            return False
        self.written += piece.decode("utf-8", "replace")
        return bool(piece)
