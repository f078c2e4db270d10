"""Runs a plan: search, choice among finalists, proof on the sealed test split, result.

Also the doors for Python users: `optimize`, which works from scripts, notebooks and running loops, and
`aoptimize` for asynchronous code.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tomli_w
from filelock import FileLock, Timeout

from promptopt import promptfile, stats
from promptopt.config import Settings, load_prompt, load_task
from promptopt.errors import (
    BudgetExhausted,
    ConfigError,
    Interrupted,
    JournalError,
    ProviderError,
    TaskError,
    nearest,
)
from promptopt.evaluation import RunState, Tally, fill_cells
from promptopt.gate import Gate, prompt_tokens
from promptopt.gateway import Gateway, RetryPolicy
from promptopt.journal import Journal
from promptopt.ledger import Amount, Lease, Stop
from promptopt.plan import PROOF_SHARE, Plan, finalists, make_plan
from promptopt.providers import LitellmTransport, SimulatorTransport, Transport
from promptopt.registry import options_of
from promptopt.result import (
    Improvement,
    PromptScores,
    Result,
    Spend,
    Spent,
    SplitScore,
    Status,
    improvement,
    split_score,
)
from promptopt.study import SearchSize, Study
from promptopt.task import Task
from promptopt.types import Budget, Candidate, Example, Prompt, digest


class Run:
    """One run of a plan in a run folder; `execute` may be called once.

    Args:
        front_matter: of the prompt file, copied into best.md.
        transports: by model name, "" for all others; None = litellm and the simulator.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        front_matter: str = "",
        transports: Mapping[str, Transport] | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.plan = plan
        self.folder = plan.settings.out or _new_folder(plan)
        self.stop = Stop()
        self.state: RunState | None = None
        self._front_matter = front_matter
        self._transports = transports
        self._retry = retry
        self._started = time.monotonic()

    async def execute(self) -> Result:
        """Run, or go on with a run that stands in the folder, and write its result.

        Raises:
            ConfigError: the folder holds a run of another configuration, or is in use.
            JournalError: the folder cannot be written.
            ReplayDiverged: the strategy asks for something else than the journal holds.
        """
        with _locked(self.folder), Journal(self.folder / "journal.db") as journal:
            self._agree_on_config(journal)
            elapsed_before_s = journal.elapsed_s()
            session = journal.start_session(datetime.now(UTC).isoformat())
            self._started = time.monotonic() - elapsed_before_s
            self.state = state = self._make_state(journal)
            status, reason, best = await self._search(state)
            proof: Improvement | None = None
            if status in ("completed", "budget_exhausted"):
                status, reason, proof = await self._prove(state, status, reason, best)
            journal.set_elapsed(session, self.elapsed_s - elapsed_before_s)
            await journal.committed()
            result = self._result(state, status, reason, best, proof)
        _write(self.folder / "best.md", promptfile.format_prompt(best.prompt, self._front_matter))
        _write(self.folder / "result.json", result.to_json())
        return result

    @property
    def elapsed_s(self) -> float:
        """Seconds that the run has lasted, over all sessions."""
        return time.monotonic() - self._started

    # Phases -----------------------------------------------------------------------------------------

    async def _search(self, state: RunState) -> tuple[Status, str, Candidate]:
        """Run the strategy, then choose among finalists on the hold-out where there is one."""
        plan = self.plan
        search = plan.limit.minus(plan.proof_reserve)
        lease = Lease(search.minus(plan.gate_reserve), self.stop)
        study = Study(state, lease, SearchSize(plan.search_calls))
        initial = Candidate(plan.task.initial)
        state.meet(initial)
        status: Status = "completed"
        reason = "the search ended by itself"
        best: Candidate | None = None
        try:
            best = await plan.optimizer.optimize(study)
        except BudgetExhausted as error:
            status, reason = "budget_exhausted", str(error)
        except Interrupted as error:
            status, reason = "interrupted", str(error)
        except (ProviderError, TaskError) as error:
            status, reason = "failed", str(error)
        best = best or (state.proposals[-1] if state.proposals else initial)
        if status in ("completed", "budget_exhausted") and plan.holdout:
            best = await self._choose(state, Lease(search.minus(lease.spent), self.stop), initial, best)
        return status, reason, best

    async def _choose(self, state: RunState, lease: Lease, initial: Candidate, best: Candidate) -> Candidate:
        """Return the finalist with the best hold-out mean; ties go to the search's order, then the initial."""
        candidates = finalists(state.proposals, best)
        if initial.id not in {candidate.id for candidate in candidates}:
            candidates.append(initial)
        pairs = [(candidate, example) for candidate in candidates for example in self.plan.holdout]
        try:
            cells = await fill_cells(state, lease, "hold-out", pairs)
        except (BudgetExhausted, Interrupted, ProviderError) as error:
            state.journal.add_event("hold-out skipped", "", 0, {"reason": str(error)})
            return best
        n = len(self.plan.holdout)
        rows = [cells[i * n : (i + 1) * n] for i in range(len(candidates))]
        common = [j for j in range(n) if all(row[j] is not None for row in rows)]
        sums = [sum(cell.score.value for j in common if (cell := row[j])) for row in rows]
        chosen = candidates[max(range(len(candidates)), key=lambda i: (sums[i], -i))]
        table = {
            candidate.id: total / max(1, len(common)) for candidate, total in zip(candidates, sums, strict=True)
        }
        state.journal.add_event("hold-out", "", 0, {"means": table, "n": len(common), "chosen": chosen.id})
        return chosen

    async def _prove(
        self, state: RunState, status: Status, reason: str, best: Candidate
    ) -> tuple[Status, str, Improvement | None]:
        """Compare best and initial prompt on the test split: the only place that reads it."""
        examples = self.plan.task.test
        if not examples:
            return status, reason, None
        state.phase = "proof"
        initial = Candidate(self.plan.task.initial)
        spent = _search_spent(state)
        lease = Lease(self.plan.limit.minus(spent), self.stop)
        candidates = [initial] if best.id == initial.id else [initial, best]
        pairs = [(candidate, example) for candidate in candidates for example in examples]
        try:
            cells = await fill_cells(state, lease, "proof", pairs)
        except Interrupted as error:
            return "interrupted", str(error), None
        except (BudgetExhausted, ProviderError, TaskError) as error:
            return "failed", f"the proof could not be completed: {error}", None
        before, after = cells[: len(examples)], cells[-len(examples) :]
        rows = [
            (e.id, a.score.value, b.score.value)
            for e, a, b in zip(examples, before, after, strict=True)
            if a is not None and b is not None
        ]
        comparison = stats.compare([row[1] for row in rows], [row[2] for row in rows])
        return status, reason, improvement(comparison, [row[0] for row in rows])

    # Set-up -----------------------------------------------------------------------------------------

    def _make_state(self, journal: Journal) -> RunState:
        plan = self.plan
        gateway = Gateway(
            journal,
            self._transports or make_transports(plan),
            concurrency=plan.concurrency,
            retry=self._retry,
            stop=self.stop,
        )
        seconds = plan.settings.budget.seconds
        if seconds is not None:
            share = 1.0 if not plan.task.test else float(1 - PROOF_SHARE)
            gateway.deadlines = {"search": self._started + share * seconds, "proof": self._started + seconds}
        return RunState(
            task=plan.task.without_test(),
            models=plan.models,
            gateway=gateway,
            journal=journal,
            gate=Gate(plan.task, plan.max_prompt_tokens),
            seed=plan.settings.seed,
            limits=plan.limit,
        )

    def _agree_on_config(self, journal: Journal) -> None:
        """Store the configuration of a new run; refuse another one; journal a raised budget."""
        wanted, known = self.plan.identity(), journal.config()
        if known and known != wanted:
            _check_same(known, wanted, self.folder)
            journal.raise_budget(known["budget"], wanted["budget"])
        if known != wanted:
            journal.set_config(wanted)
        text = tomli_w.dumps(_config_toml(self.plan))
        _write(self.folder / "config.toml", text)

    # Result -----------------------------------------------------------------------------------------

    def _result(
        self, state: RunState, status: Status, reason: str, best: Candidate, proof: Improvement | None
    ) -> Result:
        plan = self.plan
        task = plan.task
        evaluated = {candidate for candidate, _ in state.cells}
        saved = state.saved_cells - state.cells.keys()
        return Result(
            status=status,
            reason=reason,
            optimizer=plan.optimizer_name,
            options=options_of(plan.optimizer),
            seed=plan.settings.seed,
            task={
                **{"name": task.name, "metric": task.metric.name, "train": len(task.train)},
                **{"dev": len(task.dev), "holdout": len(plan.holdout), "test": len(task.test)},
            },
            models={
                role: {"name": spec.name, "is_simulated": spec.is_simulated} for role, spec in plan.models.items()
            },
            initial=self._scores(state, Candidate(task.initial)),
            best=self._scores(state, best),
            improvement=proof,
            proposals={
                "tried": len(evaluated - {task.initial.id}),
                "accepted": sum(c.id != task.initial.id for c in state.proposals),
            },
            spend=_spend(state),
            evaluations={
                "spent": len(state.cells),
                "saved_by_racing": len(saved),
                "cached": state.gateway.n_from_journal,
            },
            unparsed=state.n_unparsed,
            duration_s=round(self.elapsed_s, 3),
            version=_version(),
            out=str(self.folder),
        )

    def _scores(self, state: RunState, candidate: Candidate) -> PromptScores:
        def on(examples: tuple[Example, ...]) -> SplitScore | None:
            cells = (state.cells.get((candidate.id, example.id)) for example in examples)
            return split_score([cell.score.value for cell in cells if cell is not None])

        return PromptScores(
            prompt=promptfile.format_prompt(candidate.prompt, self._front_matter),
            dev=on(self.plan.task.dev),
            test=on(self.plan.task.test) if state.phase == "proof" else None,
            prompt_tokens=prompt_tokens(candidate.prompt),
        )


def make_transports(plan: Plan) -> dict[str, Transport]:
    """Return the transports of a plan's models: the simulator knows the task, litellm the rest."""
    transports: dict[str, Transport] = {"": LitellmTransport(tuple(plan.models.values()))}
    for spec in plan.models.values():
        if spec.is_simulated and spec.name not in transports:
            from promptopt.simulator import Simulator, landscape

            simulator = Simulator(landscape(spec.name.partition(":")[2] or "default"))
            task = plan.task
            simulator.learn((*task.train, *task.dev, *plan.holdout, *task.test))
            transports[spec.name] = SimulatorTransport(simulator, spec)
    return transports


# Doors for Python users ---------------------------------------------------------------------------


def prepare(
    prompt: str | Path | Prompt, task: Task | str | Path, settings: Settings, **data_options: Any
) -> tuple[Plan, str]:
    """Return the plan of a run and the prompt file's front matter; nothing is spent.

    Args:
        data_options: metric, target, input, description for a task given as data.

    Raises:
        ConfigError: something is wrong with the prompt, the data or the settings.
    """
    file = load_prompt(prompt)
    notes: tuple[str, ...] = ()
    if not isinstance(task, Task):
        said = {
            key: value
            for key, value in file.settings.items()
            if key in ("metric", "target", "input", "description")
        }
        said |= {key: value for key, value in data_options.items() if value is not None}
        task, notes = load_task(task, seed=settings.seed, columns_of=file.prompt, **said)
    return make_plan(task.with_initial(file.prompt), settings, notes), file.front_matter


async def aoptimize(
    prompt: str | Path | Prompt,
    task: Task | str | Path,
    *,
    model: str,
    optimizer: str = "auto",
    budget: Budget | None = None,
    **settings: Any,
) -> Result:
    """Search a better prompt and prove it on unseen data; the asynchronous form of `optimize`."""
    chosen = _settings(model, optimizer, budget, settings)
    plan, front_matter = prepare(prompt, task, chosen)
    return await Run(plan, front_matter=front_matter).execute()


def optimize(
    prompt: str | Path | Prompt,
    task: Task | str | Path,
    *,
    model: str,
    optimizer: str = "auto",
    budget: Budget | None = None,
    **settings: Any,
) -> Result:
    """Search a better prompt and prove it on unseen data.

    This calls models and spends up to `budget`. It blocks, also inside a notebook or a running loop; a
    first KeyboardInterrupt ends the run orderly and returns the best so far.

    Args:
        prompt: text in the format of a prompt file, the Path of one, or a Prompt.
        task: a Task, the path of data, or the name of a bundled task.
        model: litellm's name of the task model, or `sim`.
        optimizer: name of a strategy; `auto` picks one.
        budget: limits of the whole run, proof included; None = 1,000 calls.
        settings: any other field of `promptopt.config.Settings`, such as `seed`, `out`, `api_base`,
            `options={"population_size": "6"}`.

    Returns:
        The result, which also lies in its `out` folder as result.json and best.md.

    Raises:
        ConfigError: something is wrong with the input; nothing was spent.
        JournalError: the run folder cannot be used.
    """
    chosen = _settings(model, optimizer, budget, settings)
    plan, front_matter = prepare(prompt, task, chosen)
    return run_in_thread(Run(plan, front_matter=front_matter))


def run_in_thread(run: Run, watch: Callable[[Run], None] | None = None) -> Result:
    """Execute a run on its own event loop in its own thread; `watch` is called every 0.2 s meanwhile.

    The first KeyboardInterrupt asks the run to stop; a second one leaves at once, losing what is in flight.
    """
    outcome: list[Result | BaseException] = []

    def work() -> None:
        try:
            outcome.append(asyncio.run(run.execute()))
        except BaseException as error:  # noqa: BLE001  # carried to the calling thread and raised there
            outcome.append(error)

    thread = threading.Thread(target=work, name="promptopt", daemon=True)
    thread.start()
    while thread.is_alive():
        try:
            thread.join(0.2)
            if watch is not None:
                watch(run)
        except KeyboardInterrupt:
            if run.stop.is_set:
                raise
            run.stop.set()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _settings(model: str, optimizer: str, budget: Budget | None, rest: dict[str, Any]) -> Settings:
    names = set(Settings.__dataclass_fields__)
    for key in rest:
        if key not in names:
            raise ConfigError(f"optimize() has no setting {key!r}: {nearest(key, names)}")
    if rest.get("out") is not None:
        rest = rest | {"out": Path(rest["out"])}
    options = {key: str(value) for key, value in rest.pop("options", {}).items()}
    return Settings(model=model, optimizer=optimizer, budget=budget or Budget(), options=options, **rest)


# Inside -------------------------------------------------------------------------------------------


class _locked:  # noqa: N801  # reads as a verb where it is used
    """Hold a run folder for this process alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self._folder / ".lock")
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                f"{self._folder} is in use by another process; wait for it, or choose another --out"
            ) from None
        except OSError as error:
            raise JournalError(
                f"{self._folder} cannot be written ({error.strerror}); choose another --out"
            ) from error

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        with suppress(OSError):  # another process may have taken it already
            os.unlink(self._folder / ".lock")


def _new_folder(plan: Plan) -> Path:
    """Return a folder of its own for a run that was given none; the same command gets a new one."""
    stem = f"{plan.task.name}-{plan.optimizer_name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder, n = Path("runs") / stem, 1
    while folder.exists():
        n += 1
        folder = Path("runs") / f"{stem}-{n}"
    return folder


def _check_same(known: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    """Raise ConfigError unless only the budget differs, and only upwards."""
    changed = [key for key in wanted if key != "budget" and known.get(key) != wanted[key]]
    if changed:
        parts = [f"{key}: {known.get(key)!r} there, {wanted[key]!r} now" for key in changed]
        raise ConfigError(
            f"{folder} holds a run of another configuration ({'; '.join(parts)}); "
            "choose another --out, or repeat the command that made it"
        )
    for key, new in wanted["budget"].items():
        old = known["budget"][key]
        if old != new and (old is None or (new is not None and Decimal(new) < Decimal(old))):
            raise ConfigError(
                f"{folder} was run with budget {key} {old}, now {new}; a budget may be raised, not lowered"
            )


def _config_toml(plan: Plan) -> dict[str, Any]:
    """Return all that is needed to run it again, without keys or values that are None."""
    settings = asdict(replace(plan.settings, out=None))
    settings["budget"] = {
        key: _toml_value(value) for key, value in settings["budget"].items() if value is not None
    }
    settings = {key: _toml_value(value) for key, value in settings.items() if value is not None}
    task = {"name": plan.task.name, "metric": plan.task.metric.name, "description": plan.task.description}
    return {"version": _version(), "task": task, "settings": settings, "identity": digest(plan.identity())}


def _toml_value(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        draft.replace(path)
    except OSError as error:
        raise JournalError(f"{path} cannot be written: {error.strerror}; the journal holds all answers") from error


def _search_spent(state: RunState) -> Amount:
    total = Amount()
    for (_, phase), tally in state.tallies.items():
        if phase == "search":
            total = total.plus(tally.amount)
    return total


def _spend(state: RunState) -> Spend:
    attempts = state.journal.attempt_counts()
    whole = _spent(list(state.tallies.values()))
    roles = sorted({role for role, _ in state.tallies})
    return Spend(
        **asdict(whole),
        attempts=sum(attempts.values()),
        lost_in_flight=attempts.get("lost", 0) + attempts.get("in flight", 0),
        by_role={r: _spent([t for (role, _), t in state.tallies.items() if role == r]) for r in roles},
        by_phase={
            p: _spent([t for (_, phase), t in state.tallies.items() if phase == p]) for p in ("search", "proof")
        },
    )


def _spent(tallies: list[Tally]) -> Spent:
    costs = [tally.cost_usd for tally in tallies]
    known = [cost for cost in costs if cost is not None]
    return Spent(
        calls=sum(tally.calls for tally in tallies),
        cost_usd=sum(known, Decimal(0)) if len(known) == len(costs) else None,
        input_tokens=sum(tally.input_tokens for tally in tallies),
        output_tokens=sum(tally.output_tokens for tally in tallies),
    )


def _version() -> str:
    try:
        return version("promptopt-suite")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
