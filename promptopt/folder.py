"""The folder of a run: held by one process, agreed on one configuration, its files written whole."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w
from filelock import FileLock, Timeout

from promptopt import promptfile
from promptopt.config import check_same, command_of, toml_value
from promptopt.errors import ConfigError, JournalError
from promptopt.journal import Journal
from promptopt.plan import Plan
from promptopt.result import package_version
from promptopt.types import digest


class locked:  # noqa: N801  # reads as a verb where it is used
    """Hold a run folder for this process alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _check_ours(self._folder)
            self._lock = FileLock(self._folder / ".lock")
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                f"{self._folder} is in use by another process; wait for it, or choose another --out"
            ) from None
        except FileExistsError:
            raise ConfigError(f"{self._folder} is a file, not a folder; choose another --out") from None
        except OSError as error:
            raise ConfigError(
                f"{self._folder} cannot be written ({error.strerror}); choose another --out"
            ) from error

    def __exit__(self, *_: object) -> None:
        self._lock.release()  # the file stays: who removes a lock may remove another's


def _check_ours(folder: Path) -> None:
    """Raise ConfigError if the folder holds files but no run: a run would overwrite or bury them."""
    if (folder / "journal.db").exists():
        return
    other = next((path.name for path in sorted(folder.iterdir()) if path.name != ".lock"), None)
    if other is not None:
        raise ConfigError(
            f"{folder} is not empty ({other}) and holds no run; choose a new or empty folder for --out"
        )


def open_journal(folder: Path) -> Journal:
    """Return the journal of a run folder, new or not.

    Raises:
        ConfigError: it is not ours, damaged, or of another version.
    """
    try:
        return Journal(folder / "journal.db")
    except JournalError as error:  # nothing was spent: the folder is the wrong one
        raise ConfigError(str(error)) from error


def new_folder(plan: Plan) -> Path:
    """Return a folder of its own for a run that was given none; the same command gets a new one."""
    return unused_folder(f"{plan.task.name}-{plan.optimizer_name}")


def unused_folder(stem: str) -> Path:
    """Return a folder below `runs` that does not exist yet, named by `stem` and the time."""
    stem = f"{stem}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder, n = Path("runs") / stem, 1
    while folder.exists():
        n += 1
        folder = Path("runs") / f"{stem}-{n}"
    return folder


def agree_on_config(folder: Path, plan: Plan, journal: Journal, front_matter: str) -> None:
    """Store the configuration of a new run; refuse another one; journal a raised budget.

    Raises:
        ConfigError: the folder holds a run of another configuration; the message names the difference.
    """
    wanted, known = plan.identity(), journal.config()
    if known and known != wanted:
        check_same(known, wanted, folder)
        journal.raise_budget(known["budget"], wanted["budget"])
    if known != wanted:
        journal.set_config(wanted)
    write(folder / "config.toml", tomli_w.dumps(_config_toml(plan, front_matter), multiline_strings=True))


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        draft.replace(path)
    except OSError as error:
        raise JournalError(f"{path} cannot be written: {error.strerror}; the journal holds all answers") from error


def _config_toml(plan: Plan, front_matter: str) -> dict[str, Any]:
    """Return all that is needed to run it again, without keys or values that are None."""
    settings = {key: toml_value(value) for key, value in asdict(replace(plan.settings, out=None)).items()}
    task = {"name": plan.task.name, "metric": plan.task.metric.name, "description": plan.task.description}
    prompt = promptfile.format_prompt(plan.task.initial, front_matter)
    return {
        "version": package_version(),
        "command": command_of(plan.source, plan.settings),
        "identity": digest(plan.identity()),
        "prompt": prompt,
        "source": dict(plan.source),
        "task": task,
        "settings": {key: value for key, value in settings.items() if value is not None},
    }
