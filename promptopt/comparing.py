"""Runs the grid of a comparison with one journal: what two runs both ask is paid once, and charged to each."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptopt import folder, secret
from promptopt.cell import Outcome, ended, has_ended, read, without_run
from promptopt.comparison import CSV_NAME, JSON_NAME, CompareResult
from promptopt.config import check_same
from promptopt.errors import ConfigError, JournalError, PromptoptError
from promptopt.folder import COMPARISON, Shared
from promptopt.gateway import RetryPolicy
from promptopt.grid import Asked, Grid, GridCell, Reader, make_grid
from promptopt.ledger import Stop
from promptopt.plan import Plan
from promptopt.providers import Transport
from promptopt.run import Run
from promptopt.summing import summed

# So many runs in a row without one answer mean that the endpoint is down: the others would wait in vain.
MOST_SILENT = 3


class Comparing:
    """One comparison in a folder; `execute` may be called once, and goes on with what lies there.

    Args:
        out: the folder; None = a new one below `runs/`.
        reader: reads a data set.
        transports: by model name, "" for all others; None = litellm and the simulator.

    Attributes:
        run: the run that goes on now; None = none.
        outcomes: of the cells so far, by name.
        n_kept: cells that had ended in earlier sessions.

    Raises:
        ConfigError: the grid makes no sense, or a data set suits no strategy.
    """

    def __init__(
        self,
        asked: Asked,
        reader: Reader,
        *,
        out: Path | None = None,
        transports: Mapping[str, Transport] | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.folder = out or folder.new_folder("compare")
        self.grid: Grid = make_grid(asked, self.folder, reader, is_simulated=transports is None)
        self.stop = Stop()
        self.run: Run | None = None
        self.outcomes: dict[str, Outcome] = {}
        self.n_kept = 0
        self._silence = ""
        self._transports = transports
        self._retry = retry

    async def execute(self) -> CompareResult:
        """Run the cells that have not ended, one after the other, and write what all found.

        Raises:
            ConfigError: the folder cannot be used: in use, not writable, of another comparison.
            JournalError: it can no longer be written.
        """
        started = time.monotonic()
        with folder.locked(self.folder):
            begun = self._agree()
            for cell in self.grid.cells:
                known = self._known(cell, begun)
                if known is not None:
                    self.outcomes[cell.name] = known
            self.n_kept = sum(outcome.result.has_ended for outcome in self.outcomes.values())
            await self._run_cells()
            result = self._result(time.monotonic() - started)
            folder.write(self.folder / JSON_NAME, result.to_json())
            folder.write(self.folder / CSV_NAME, result.to_csv())
            return result

    async def _run_cells(self) -> None:
        """Run the cells that have not ended, until a stop is asked for, or nobody answers any more."""
        n_silent = 0
        for cell in self.grid.cells:
            if self.stop.is_set:
                return
            if cell.name in self.outcomes:
                continue
            self.outcomes[cell.name] = outcome = await self._outcome(cell)
            n_silent = n_silent + 1 if outcome.was_unanswered else 0
            if n_silent == MOST_SILENT:
                self._silence = f"not begun: the last {n_silent} runs got no answer ({outcome.result.reason})"
                return

    def plans_left(self) -> list[Plan]:
        """Return the plans of the runs that have not ended in earlier sessions; nothing is opened or changed."""
        return [
            cell.plan for cell in self.grid.cells if cell.plan is not None and not has_ended(self._shared(cell))
        ]

    def _shared(self, cell: GridCell) -> Shared:
        return Shared(self.folder, cell.name)

    def _agree(self) -> set[str]:
        """Store what the comparison is of and return which runs have begun; refuse another one.

        Raises:
            ConfigError: the folder holds something else, or runs of another configuration.
        """
        wanted = self.grid.identity()
        with folder.open_journal(self.folder, COMPARISON) as journal:
            configs = journal.configs()
            known = configs.get(COMPARISON)
            if known is None and configs:
                raise ConfigError(f"{self.folder} holds a run, no comparison; choose another --out")
            if known is not None:
                self._check_same(known, wanted, configs)
                wanted["data sets"] = known["data sets"] | wanted["data sets"]
            journal.set_config(wanted)
            return set(configs)

    def _check_same(
        self, known: Mapping[str, Any], wanted: Mapping[str, Any], configs: Mapping[str, dict[str, Any]]
    ) -> None:
        """Raise ConfigError where this comparison differs from the folder's in more than new cells."""
        common = [name for name in wanted["data sets"] if name in known["data sets"]]
        both = [
            _as_json(
                {
                    **whole,
                    "budget of each run": whole["budget"],
                    "data sets": {name: whole["data sets"][name] for name in common},
                }
            )
            for whole in (known, wanted)
        ]
        check_same(both[0], both[1], self.folder, "comparison")
        for cell in self.grid.cells:
            if cell.plan is not None and cell.name in configs:
                there, now = configs[cell.name], _as_json(cell.plan.identity())
                check_same(there, now, self._shared(cell).place)

    def _known(self, cell: GridCell, begun: set[str]) -> Outcome | None:
        """Return the outcome of a cell that need not run, or cannot."""
        if cell.plan is None:
            return without_run(cell, "failed", cell.reason)
        return ended(cell, self._shared(cell)) if cell.name in begun else None

    async def _outcome(self, cell: GridCell) -> Outcome:
        """Run a cell; whatever ends it, the others are not lost.

        Raises:
            JournalError: nothing more can be kept.
        """
        assert cell.plan is not None
        shared = self._shared(cell)
        try:
            self.run = run = Run(
                cell.plan,
                front_matter=cell.front_matter,
                transports=self._transports,
                retry=self._retry,
                shared=shared,
            )
            run.stop = self.stop
            await run.execute()
        except JournalError:
            raise
        except PromptoptError as error:
            return without_run(cell, "failed", secret.clean(str(error)), shared)
        except Exception as error:  # noqa: BLE001  # a strategy that is a plug-in may raise anything
            what = secret.clean(f"{type(error).__name__}: {error}")
            return without_run(cell, "failed", f"the strategy raised {what}; its other runs go on", shared)
        finally:
            self.run = None
        return read(cell, shared)

    def _result(self, duration_s: float) -> CompareResult:
        """Return the comparison as it stands."""
        why = self._silence or "interrupted before this run began"
        for cell in self.grid.cells:
            if cell.name not in self.outcomes:
                self.outcomes[cell.name] = without_run(cell, "not_run", why)
        outcomes = [self.outcomes[cell.name] for cell in self.grid.cells]
        return summed(self.grid, outcomes, is_stopped=self.stop.is_set, duration_s=round(duration_s, 3))


def _as_json(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as the journal gives it back."""
    found: dict[str, Any] = json.loads(json.dumps(whole))
    return found
