"""Goes through a finished run again without any model: from its folder or its recording, with the network shut."""

from __future__ import annotations

import difflib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptopt import brief, promptfile, recording, transcript
from promptopt.config import load_prompt, set_initial
from promptopt.errors import ConfigError, ReplayDiverged
from promptopt.journal import Journal
from promptopt.ledger import Stop
from promptopt.plan import Plan, make_plan, name_in_folder, predict_identity
from promptopt.providers import LitellmTransport
from promptopt.result import Result, lasting
from promptopt.run import Run
from promptopt.tape import Tape, difference, insert
from promptopt.task import Task
from promptopt.types import Candidate, Metric, Prompt

_REPLAYED = ("completed", "budget_exhausted")
_MOST_SHOWN = 500  # characters of a value


@dataclass(frozen=True)
class Replayed:
    """A run that was gone through again.

    Args:
        result: what it ended in this time.
        differences: how that differs from what was recorded, a sentence each; () = identical.
        n_answers: answers that were used, all of them recorded ones.
    """

    result: Result
    differences: tuple[str, ...]
    n_answers: int

    @property
    def is_identical(self) -> bool:
        """Whether result and best prompt are those that were recorded, timings aside."""
        return not self.differences


class Replaying:
    """One replay; `execute` may be called once. Nothing is written outside of a temporary folder.

    Args:
        source: a run folder, or a recording's file.
        prompt: the prompt to begin with instead of the recorded one; None = that one.
        optimizer: the strategy to take instead, as in `optimize`.
        metric: the metric to take instead, by name or itself.
        api_base: the address that the run had, where that had a token in it; nothing is sent there.
        task: the whole task to take instead, such as one with a `predict` function; the prompt stays.

    Raises:
        ConfigError: there is nothing that can be replayed, or code of the user's own has to be named.
    """

    def __init__(
        self,
        source: Path,
        *,
        prompt: Path | str | Prompt | None = None,
        optimizer: str | None = None,
        metric: str | Metric | None = None,
        api_base: str | None = None,
        task: Task | None = None,
    ) -> None:
        self.recording = recording.of_run(source) if source.is_dir() else recording.read(source)
        self.stop = Stop()
        self._changes = (prompt, optimizer, metric, task)
        self._api_base = api_base
        found, status = self.recording, (self.recording.result or {}).get("status")
        if status not in _REPLAYED:
            how = f"a run that ended as {status}" if status else "no run that has ended"
            raise ConfigError(
                f"{found.name} holds {how}; let it go on with the command that began it, then replay it"
            )
        _ = found.brief, found.settings

    async def execute(self) -> Replayed:
        """Return how the run ends this time.

        Raises:
            ReplayDiverged: it asks for something that is not recorded.
        """
        with tempfile.TemporaryDirectory(prefix="promptopt-replay-") as place:
            folder = Path(place) / "run"
            folder.mkdir()
            with insert(Tape(name=self.recording.name, facts=dict(self.recording.facts))):
                return await self._execute(folder)

    async def _execute(self, folder: Path) -> Replayed:
        plan = self._plan(folder)
        transcript.restore(folder / "journal.db", self.recording.rows)
        with Journal(folder / "journal.db") as journal:
            recorded = {candidate.id: candidate for candidate in journal.candidates()}
            journal.set_config(plan.identity())  # what differs shall show in what is asked, not here
        shut = {"": LitellmTransport(())}  # never asked: the tape stands before it
        run = Run(plan, front_matter=brief.front_matter_of(self.recording.brief), transports=shut)
        run.stop = self.stop
        try:
            result = await run.execute()
        except ReplayDiverged as error:
            if not error.difference:
                error.difference = _of_prompts(folder, recorded)
            raise
        best = (folder / "best.md").read_text(encoding="utf-8")
        return Replayed(result, self._differences(result, best), result.spend.calls)

    def _plan(self, folder: Path) -> Plan:
        found = self.recording
        prompt, optimizer, metric, task = self._changes
        settings = brief.read_settings(found.settings, folder, optimizer, self._api_base)
        given = brief.read_task(found.brief, folder.parent, metric) if task is None else task
        _check_predict(found.brief, given)
        if prompt is not None:
            given = set_initial(given, load_prompt(prompt), str(prompt) if isinstance(prompt, Path) else None)
        elif task is not None:
            given = given.with_initial(brief.read_prompt(found.brief))
        return make_plan(given, settings)

    def _differences(self, result: Result, best: str) -> tuple[str, ...]:
        """Return in sentences how an outcome differs from the recorded one."""
        then, now = _steady(self.recording.result or {}), _steady(json.loads(result.to_json()))
        rows = [
            sentence
            for key in dict.fromkeys((*then, *now))
            for sentence in _apart(key, then.get(key), now.get(key))
        ]
        if best != self.recording.best:
            shown = difference(self.recording.best.split("\n"), best.split("\n"))
            rows.append(f"the best prompt differs:\n{shown}")
        return tuple(rows)


def _check_predict(found: Mapping[str, Any], given: Task) -> None:
    """Raise ConfigError where the run's answers came from a function of the user's that is not given."""
    recorded = str(found.get("predict") or "")
    if recorded and given.predict is None:
        raise ConfigError(
            f"the run's answers came from the function {recorded.partition(' x ')[0]!r:.80}, and code is never "
            "taken from a recording: give the task with it (--data path.py:Name; in Python, task=...)"
        )
    if not recorded and given.predict is not None:
        raise ConfigError(f"the task has a function {predict_identity(given)!r:.80}, and the run had none")


def _steady(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a result that must be the same.

    Where plug-ins lie need not be; nor, where time ended a run, the last failure before.
    """
    kept = lasting(fields)
    reason = re.sub(r"(the time is over);.*", r"\1", str(kept["reason"]), flags=re.DOTALL)
    task = kept["task"] if isinstance(kept.get("task"), Mapping) else {}
    metric = name_in_folder(str(task.get("metric")))
    named = {"optimizer": name_in_folder(str(kept.get("optimizer"))), "task": {**task, "metric": metric}}
    return {**kept, **named, "reason": reason}


def _apart(key: str, then: Any, now: Any) -> list[str]:
    """Return in sentences where two values differ."""
    if then == now:
        return []
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        parts = [_apart(f"{key}.{name}", then.get(name), now.get(name)) for name in dict.fromkeys((*then, *now))]
        return [row for rows in parts for row in rows]
    return [f"{key}: recorded {_short(then)}, now {_short(now)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} [...]"


def _of_prompts(folder: Path, recorded: Mapping[str, Candidate]) -> str:
    """Return how the first prompt that was not recorded differs from the most similar recorded one; "" = none."""
    with Journal(folder / "journal.db") as journal:
        new = next((candidate for candidate in journal.candidates() if candidate.id not in recorded), None)
    if new is None or not recorded:
        return ""
    text = promptfile.format_prompt(new.prompt)
    matcher = difflib.SequenceMatcher(None, "", text, autojunk=False)

    def likeness(other: str) -> float:
        matcher.set_seq1(other)
        return matcher.quick_ratio()

    nearest = max((promptfile.format_prompt(candidate.prompt) for candidate in recorded.values()), key=likeness)
    return difference(nearest.split("\n"), text.split("\n"))
