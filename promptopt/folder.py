"""The folder of a run: held by one process, agreed on one configuration, its files written whole."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w
from filelock import FileLock, Timeout

from promptopt import brief, chatfile, models_file, promptfile
from promptopt.config import check_same, command_of, options_of, toml_value
from promptopt.errors import ConfigError, JournalError
from promptopt.journal import Journal
from promptopt.plan import Plan
from promptopt.providers import ModelSpec
from promptopt.result import package_version
from promptopt.settings_file import RECORD
from promptopt.types import Prompt, digest

INITIAL = "initial.md"
JOURNAL = "journal.db"
# Below a comparison's folder; a run's place below it is its name in the journal that they share.
CELLS = "cells"
COMPARISON = "comparison"


@dataclass(frozen=True)
class Shared:
    """A journal that several runs share; its folder is held by whoever runs them.

    Args:
        folder: where the journal lies.
        run: name of this run within it.
    """

    folder: Path
    run: str

    @property
    def place(self) -> Path:
        """The run's own folder."""
        return self.folder.joinpath(CELLS, *self.run.split("/"))


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
    if (folder / JOURNAL).exists():
        return
    other = next((path.name for path in sorted(folder.iterdir()) if path.name != ".lock"), None)
    if other is not None:
        raise ConfigError(
            f"{folder} is not empty ({other}) and holds no run; choose a new or empty folder for --out"
        )


def open_journal(folder: Path, run: str = "run") -> Journal:
    """Return the journal of a run folder, new or not.

    Args:
        run: which of the runs in it.

    Raises:
        ConfigError: it is not ours, damaged, or of another version.
    """
    try:
        return Journal(folder / JOURNAL, run)
    except JournalError as error:  # nothing was spent: the folder is the wrong one
        raise ConfigError(str(error)) from error


@contextmanager
def held(folder: Path, shared: Shared | None) -> Iterator[Journal]:
    """Hold the folder of a run, and yield the run's journal.

    Args:
        shared: the journal, which is held already; None = it lies in the folder.

    Raises:
        ConfigError: the folder or the journal cannot be used.
    """
    if shared is None:
        with locked(folder), open_journal(folder) as journal:
            yield journal
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}); choose another --out") from error
    with open_journal(shared.folder, shared.run) as journal:
        yield journal


def journal_of(place: Path) -> tuple[Path, str]:
    """Return the journal of a run by the run's folder, and the run's name in it: its own, or a comparison's."""
    whole = place.resolve()
    for above in whole.parents:
        if above.name == CELLS and (above.parent / JOURNAL).exists() and not (place / JOURNAL).exists():
            return above.parent / JOURNAL, whole.relative_to(above).as_posix()
    return place / JOURNAL, "run"


def new_folder(name: str) -> Path:
    """Return a folder of its own for a run that was given none; the same command gets a new one."""
    plain = re.sub(r"[^\w.-]+", "-", name)  # names of plug-ins have slashes
    stem = f"{plain}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
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
    if COMPARISON in journal.configs() and not _is_cell(folder, journal):
        raise ConfigError(f"{folder} holds a comparison, no run; choose another --out")
    if not known and (folder / "result.json").exists():
        raise ConfigError(
            f"{journal.path} is empty, though result.json says that a run has ended here: it was cut or "
            "replaced; put the journal back, or choose another --out"
        )
    if known and known != wanted:
        check_same(known, wanted, folder)
        journal.raise_budget(known["budget"], wanted["budget"])
    if known != wanted:
        journal.keep_brief(brief.given_to(plan, front_matter), brief.settings_of(plan))
        journal.set_config(wanted)
    write(folder / INITIAL, promptfile.format_prompt(plan.task.initial, front_matter))
    write(folder / "config.toml", tomli_w.dumps(_config_toml(plan), multiline_strings=True))


def _is_cell(folder: Path, journal: Journal) -> bool:
    """Return whether a run's folder is one of a comparison's."""
    return journal.path is not None and journal.path.parent != folder


def keep_facts(folder: Path, models: Iterable[ModelSpec]) -> None:
    """Keep what litellm says of a run's models, so that a run from the journal need not load it."""
    write(folder / models_file.NAME, models_file.text(folder, models))


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):  # it may never have been made
            draft.unlink()
        raise JournalError(f"{path} cannot be written: {error.strerror}; the journal holds all answers") from error


def write_chat(folder: Path, plan: Plan, best: Prompt) -> None:
    """Write the best prompt as messages too, such as best.json, if the initial one was read from such a file."""
    suffix = Path(plan.source.get("prompt_file", "")).suffix.lower()
    if suffix in chatfile.SUFFIXES:
        text = chatfile.format_chat(best, plan.task.columns, plan.task.input_column, suffix)
        write(folder / f"best{suffix}", text)


def is_of_another_run(config: Path, plan: Plan) -> bool:
    """Return whether a run wrote `config`, and this plan is not quite the same run."""
    recorded = tomllib.loads(config.read_text(encoding="utf-8-sig")).get(RECORD, {}).get("identity")
    return recorded is not None and recorded != digest(plan.identity())


def _config_toml(plan: Plan) -> dict[str, Any]:
    """Return a settings file that makes the same run, and what tells whether it does; never a key."""
    task = {"name": plan.task.name, "metric": plan.task.metric.name, "description": plan.task.description}
    record = {"version": package_version(), "command": command_of(plan.source, plan.settings), "task": task}
    options = options_of(plan.source, plan.settings)
    return {
        "prompt-file": INITIAL,
        **{key: toml_value(value) for key, value in options.items()},
        RECORD: {**record, "identity": digest(plan.identity()), "source": dict(plan.source)},
    }
