"""Reads a run folder, finished or not, into the story that a report tells."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from math import fsum
from pathlib import Path
from typing import Any

from promptopt import brief, promptfile
from promptopt.errors import ConfigError, JournalError
from promptopt.folder import journal_of
from promptopt.gate import prompt_tokens
from promptopt.journal import BRIEF, SETTINGS
from promptopt.plan import held_out
from promptopt.report import search
from promptopt.report.lineage import lineage_of
from promptopt.report.record import Change, Entry, Spending, Story, Use
from promptopt.report.rows import Answer, Cell, Event, Rows
from promptopt.result import Result
from promptopt.result_file import read_result
from promptopt.task import UNSCORED
from promptopt.types import Candidate, Example

_MOST_CHANGES = 200  # examples fixed and broken that are shown with their answers, of each kind
_MOST_CONFIG = 200_000  # characters
_WRONG = "name the folder of a run of `promptopt optimize`"


def read_story(folder: Path) -> Story:
    """Return what a run folder tells; nothing in it is changed.

    Raises:
        ConfigError: it holds no run, or what it holds is damaged.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; {_WRONG}")
    result = read_result(folder)
    try:
        with Rows(*journal_of(folder)) as rows:
            return _Reader(folder, rows, result).story()
    except JournalError as error:
        raise ConfigError(str(error)) from error


@dataclass(frozen=True)
class _Reader:
    """Puts the parts together; `rows` is open."""

    folder: Path
    rows: Rows
    result: Result | None

    def story(self) -> Story:
        begun, elapsed_s = self.rows.sessions()
        identity, result = self.rows.config, self.result
        models = identity.get("models")
        named = (
            {str(role): str(spec.get("name")) for role, spec in models.items() if isinstance(spec, dict)}
            if isinstance(models, dict)
            else {}
        )
        lineage, n_ancestors = lineage_of(self.rows, self.entries, self.best, self.answers, self.events)
        uses, split = self._uses()
        return Story(
            name=self.folder.resolve().name,
            result=result,
            identity=identity,
            task=self._task(),
            simulated=tuple(role for role, name in named.items() if name.partition(":")[0] == "sim"),
            models=named,
            started_at=begun,
            elapsed_s=elapsed_s if result is None else result.duration_s,
            entries=self.entries,
            best=self.best,
            proposals=self.proposals,
            lineage=lineage,
            n_ancestors=n_ancestors,
            heats=search.heats(self.events, self.numbers),
            twigs=search.twigs(self.events, self.numbers),
            rounds=search.rounds(self.events, self.numbers),
            changes=self._changes(),
            uses=uses,
            uses_split=split,
            spending=_spending(self.answers),
            attempts=self.rows.attempts(),
            refused=search.refused(self.events),
            config=self._config(),
            front_matter=brief.front_matter_of(self.brief),
            is_scored=self.is_scored,
        )

    # Parts ------------------------------------------------------------------------------------------

    @cached_property
    def events(self) -> list[Event]:
        return self.rows.events()

    @cached_property
    def brief(self) -> Mapping[str, Any]:
        found = next((event.payload for event in self.events if event.kind == BRIEF), None)
        if found is None:
            raise ConfigError(
                f"{self.folder} does not say what its run was given: it never began, or an older version made it; "
                f"{_WRONG}"
            )
        return found

    @cached_property
    def splits(self) -> dict[str, tuple[Example, ...]]:
        """The rows of each split; those of dev that were held out stand apart."""
        found = {split: brief.read_examples(self.brief, split) for split in ("train", "dev", "test")}
        size = next((event.payload for event in self.events if event.kind == "size"), {})
        settings = next((event.payload for event in self.events if event.kind == SETTINGS), {})
        n_held, seed = size.get("held_out", 0), settings.get("seed", 0)
        dev = found["dev"]
        if not isinstance(n_held, int) or not isinstance(seed, int) or not 0 <= n_held <= len(dev) or seed < 0:
            raise ConfigError(f"{self.folder}: its journal is damaged (hold-out of {n_held!r:.40}); {_WRONG}")
        held = held_out(len(dev), n_held, seed) if n_held else set()
        found["holdout"] = tuple(example for i, example in enumerate(dev) if i in held)
        found["dev"] = tuple(example for i, example in enumerate(dev) if i not in held)
        return found

    @cached_property
    def is_scored(self) -> bool:
        return self.brief.get("metric") != UNSCORED

    @cached_property
    def answers(self) -> list[Answer]:
        return self.rows.answers()

    @cached_property
    def cells(self) -> dict[tuple[str, str], Cell]:
        return {(cell.candidate_id, cell.example_id): cell for cell in self.rows.cells()}

    @cached_property
    def candidates(self) -> list[tuple[str, Candidate]]:
        """Id and candidate by number; the initial prompt is number 0 even if nothing has begun."""
        found = self.rows.candidates()
        initial = Candidate(brief.read_prompt(self.brief))
        others = [row for row in found if row[0] != initial.id]
        return [(initial.id, initial), *others]

    @cached_property
    def numbers(self) -> dict[str, int]:
        return {candidate_id: i for i, (candidate_id, _) in enumerate(self.candidates)}

    @cached_property
    def proposals(self) -> tuple[int, ...]:
        """The best prompts so far; those of branches in the order of their paths."""
        named = (event.payload.get("candidate") for event in self.events if event.kind == "proposal")
        return tuple(self.numbers[name] for name in named if isinstance(name, str) and name in self.numbers)

    @cached_property
    def best(self) -> int:
        """The number of the best prompt: that of the result, else the last one proposed."""
        last = self.proposals[-1] if self.proposals else 0
        if self.result is None:
            return last
        try:
            found = promptfile.parse(self.result.best.prompt, "the best prompt of result.json").prompt.id
        except ConfigError:
            return last
        return self.numbers.get(found, last)

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        dev, test = ({example.id for example in self.splits[split]} for split in ("dev", "test"))
        spent = _running_totals(self.answers)
        values: dict[str, list[float]] = defaultdict(list)
        first: dict[str, int] = {}
        for cell in self.cells.values():
            if cell.example_id in test:
                continue
            if cell.value is not None and self.is_scored and cell.example_id in dev:
                values[cell.candidate_id].append(cell.value)
            if cell.key is not None and cell.key in spent:
                n_used = spent[cell.key][0]
                first[cell.candidate_id] = min(n_used, first.get(cell.candidate_id, n_used))
        dollars = dict(spent.values())
        accepted = set(self.proposals)
        found = []
        for number, (candidate_id, candidate) in enumerate(self.candidates):
            scores, at = values[candidate_id], first.get(candidate_id)
            found.append(
                Entry(
                    number=number,
                    candidate=candidate,
                    parents=tuple(self.numbers[p] for p in candidate.parents if p in self.numbers),
                    dev=fsum(scores) / len(scores) if scores else None,
                    n_dev=len(scores),
                    tokens=prompt_tokens(candidate.prompt),
                    calls=at,
                    usd=None if at is None else dollars[at],
                    is_accepted=number in accepted,
                )
            )
        return tuple(found)

    def _task(self) -> dict[str, Any]:
        sizes = {split: len(rows) for split, rows in self.splits.items()}
        names = {key: str(self.brief.get(key) or "") for key in ("task", "description", "metric")}
        return {"name": names["task"], "description": names["description"], "metric": names["metric"], **sizes}

    def _changes(self) -> tuple[Change, ...]:
        """Return the test examples that the best prompt fixed and broke, with both replies."""
        proof = None if self.result is None else self.result.improvement
        if proof is None:
            return ()
        kinds = ((True, proof.fixed[:_MOST_CHANGES]), (False, proof.broken[:_MOST_CHANGES]))
        pair = [self.candidates[number][0] for number in (0, self.best)]
        wanted = [self.cells.get((candidate, name)) for _, names in kinds for name in names for candidate in pair]
        replies = self.rows.replies([cell.key for cell in wanted if cell is not None and cell.key is not None])
        examples = {example.id: example for example in self.splits["test"]}
        found = []
        for is_fixed, names in kinds:
            for name in names:
                before, after = (self.cells.get((candidate, name)) for candidate in pair)
                scores = (None if before is None else before.value, None if after is None else after.value)
                said = (_reply(before, replies), _reply(after, replies))
                found.append(Change(name, is_fixed, examples.get(name), *said, scores=scores))
        return tuple(found)

    def _uses(self) -> tuple[tuple[Use, Use] | None, str]:
        """Return what answers to the initial and the best prompt take, on the same examples of a split."""
        by_key = {answer.key: answer for answer in self.answers if answer.role == "task"}
        pair = [self.candidates[number][0] for number in (0, self.best)]
        for split in ("test", "dev"):
            both = []
            for example in self.splits[split]:
                cells = [self.cells.get((candidate, example.id)) for candidate in pair]
                found = [by_key.get(cell.key) for cell in cells if cell is not None and cell.key is not None]
                if len(found) == 2 and None not in found:
                    both.append(found)
            if both:
                before, after = (_use([row[i] for row in both]) for i in (0, 1))
                return (before, after), split
        return None, ""

    def _config(self) -> str:
        try:
            return (self.folder / "config.toml").read_text(encoding="utf-8", errors="replace")[:_MOST_CONFIG]
        except OSError:
            return ""


def _reply(cell: Cell | None, replies: Mapping[bytes, str]) -> str:
    """Return what a prompt was answered, or in brackets why that is not known."""
    if cell is None:
        return "(not in the journal)"
    if cell.cause is not None:
        return f"(no answer: {cell.cause})"
    if cell.key is None or cell.key not in replies:
        return "(the reply of the task's own function; the journal does not hold it)"
    return replies[cell.key] or "(an empty answer)"


def _use(answers: Iterable[Answer | None]) -> Use:
    rows = [answer for answer in answers if answer is not None]
    n = len(rows)
    costs = [row.usd for row in rows]
    known = [cost for cost in costs if cost is not None]
    return Use(
        n=n,
        input_tokens=_mean([row.input_tokens for row in rows]),
        output_tokens=_mean([row.output_tokens for row in rows]),
        usd_per_1000=1000 * sum(known, Decimal(0)) / n if len(known) == n else None,
    )


def _mean(values: Sequence[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _running_totals(answers: Sequence[Answer]) -> dict[bytes, tuple[int, Decimal | None]]:
    """Return for each answer how many had been used with it, and what they had cost."""
    found: dict[bytes, tuple[int, Decimal | None]] = {}
    total: Decimal | None = Decimal(0)
    for i, answer in enumerate(answers, start=1):
        total = None if total is None or answer.usd is None else total + answer.usd
        found[answer.key] = (i, total)
    return found


def _spending(answers: Sequence[Answer]) -> tuple[Spending, ...]:
    groups: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[answer.role, answer.phase].append(answer)
    order = Counter({"search": 2, "proof": 1})
    return tuple(
        Spending(
            role=role,
            phase=phase,
            calls=len(rows),
            usd=None
            if any(row.usd is None for row in rows)
            else sum((row.usd or Decimal(0) for row in rows), Decimal(0)),
            input_tokens=sum(row.input_tokens or 0 for row in rows),
            output_tokens=sum(row.output_tokens or 0 for row in rows),
        )
        for (role, phase), rows in sorted(groups.items(), key=lambda item: (-order[item[0][1]], item[0]))
    )
