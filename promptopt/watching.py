"""Follows a run of another process by its folder: opens nothing for writing, takes no lock, asks no model."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from promptopt import progress
from promptopt.errors import ConfigError, JournalError
from promptopt.progress import Progress
from promptopt.result import Result

_PAUSE_S = 0.25
# A folder that is just being made is waited for so long; and a process on another machine that tells nothing.
_WAIT_S, _SILENT_S = 5.0, 30.0
_SAY_SILENT_S = 5.0


@dataclass(frozen=True)
class Sight:
    """What was seen of a run.

    Args:
        is_running: whether its process is there, as far as can be told from here.
        silent_s: seconds since its record last changed, as seen by whoever watches.
    """

    progress: Progress
    is_running: bool
    silent_s: float

    @property
    def note(self) -> str:
        """What is to be said besides the record; "" = nothing."""
        if not self.is_running or self.silent_s < _SAY_SILENT_S:
            return ""
        return f"no news for {self.silent_s:.0f} s; the process of the run may be halted"


def sights(
    folder: Path, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Sight]:
    """Yield what is seen of the run in a folder, a few times a second, until it is over or its process is gone.

    Raises:
        ConfigError: there is no run, or its journal is none that can be read.
    """
    last: Progress | None = None
    changed_at = started = clock()
    while True:
        found = _look(folder, is_patient=last is None and clock() - started < _WAIT_S)
        now = clock()
        if found is not None:
            if found != last:
                last, changed_at = found, now
            silent_s = now - changed_at
            is_running = not found.is_over and _is_there(found, silent_s)
            yield Sight(found, is_running, silent_s)
            if not is_running:
                return
        sleep(_PAUSE_S)


def result_of(folder: Path) -> Result:
    """Return the result that lies in a folder.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    from pydantic import TypeAdapter

    path = folder / "result.json"
    try:
        text = path.read_text(encoding="utf-8")
        found: Result = TypeAdapter(Result).validate_python(progress.sound_json(text) | {"out": str(folder)})
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, RecursionError) as error:  # pydantic's error is a ValueError
        said = progress.first_line(error)
        raise ConfigError(f"{path} cannot be read ({said}); it is damaged, or of another version") from error
    return found


def _look(folder: Path, *, is_patient: bool) -> Progress | None:
    """Return the record that lies in a folder; None = not yet, which the patient put up with."""
    if folder.is_file():
        raise ConfigError(f"{folder} is a file; name the folder of a run")
    try:
        found = progress.read(folder)
    except JournalError as error:
        if is_patient and not _is_made(folder):
            return None
        if not (folder / "journal.db").is_file():
            raise ConfigError(f"{folder} holds no journal; name the folder of a run (its --out)") from error
        raise ConfigError(str(error)) from error
    if found is None and not is_patient:
        raise ConfigError(
            f"{folder} does not say how far a run is: none was begun there, or an older version began it; "
            "to go on, run the same command"
        )
    return found


def _is_made(folder: Path) -> bool:
    """Return whether a journal was there long enough to be read: its making takes a moment."""
    try:
        return time.time() - (folder / "journal.db").stat().st_mtime > _WAIT_S
    except OSError:
        return False


def _is_there(found: Progress, silent_s: float) -> bool:
    """Return whether a run's process seems to be alive: by its number on this machine, else by its news."""
    if found.host != progress.this_host() or sys.platform == "win32":  # where signal 0 is none that asks
        return silent_s < _SILENT_S
    try:
        os.kill(found.pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return silent_s < _SILENT_S
    return True
