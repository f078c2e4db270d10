"""Kills: copies of a journal as they would lie on disk if the process had died there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from unittest import mock

from promptopt import folder as folders
from promptopt.journal import Journal


class Snapshots:
    """Copies of a run's journal after its commits, evenly spread over the run.

    Args:
        folder: where the copies go, each in a run folder of its own.
        at_most: thin them so that at most so many are left, at least half of it; None = keep all.
    """

    def __init__(self, folder: Path, at_most: int | None = None) -> None:
        self._folder = folder
        self._at_most = at_most
        self._stride = 1
        self._n_commits = 0
        self._kept: list[Path] = []

    @property
    def folders(self) -> tuple[Path, ...]:
        """The run folders, each with a journal, in the order of their commits."""
        return tuple(self._kept)

    def take(self, journal: Path) -> None:
        """Copy the journal if its turn has come."""
        self._n_commits += 1
        if self._n_commits % self._stride:
            return
        target = self._folder / f"kill-{self._n_commits}"
        target.mkdir(parents=True)
        source_db, target_db = sqlite3.connect(journal), sqlite3.connect(target / "journal.db")
        with closing(source_db), closing(target_db):
            source_db.backup(target_db)
        self._kept.append(target)
        if self._at_most is not None and len(self._kept) > self._at_most:
            self._stride *= 2
            for dropped in self._kept[::2]:
                (dropped / "journal.db").unlink()
                dropped.rmdir()
            self._kept = self._kept[1::2]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Copy the journals of all runs inside the block."""
        snapshots = self

        class Watched(Journal):
            """A journal that is copied after each commit; from outside, commits cannot be seen."""

            def _flush(self) -> None:
                has_pending = bool(self._pending)
                super()._flush()
                if has_pending and self.path is not None:
                    snapshots.take(self.path)

        with mock.patch.object(folders, "Journal", Watched):
            yield
