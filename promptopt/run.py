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
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from promptopt import folder, promptfile, registry
from promptopt.asking import RunState
from promptopt.config import (
    DATA_OPTIONS,
    Settings,
    load_prompt,
    load_task,
    name_front_matter,
    set_initial,
)
from promptopt.errors import (
    BudgetExhausted,
    ConfigError,
    Interrupted,
    ProviderError,
    TaskError,
    nearest,
)
from promptopt.evaluation import fill_cells
from promptopt.gate import Gate
from promptopt.gateway import Gateway, RetryPolicy
from promptopt.journal import Journal
from promptopt.ledger import Amount, Lease, Stop
from promptopt.pacing import Pacing
from promptopt.plan import PROOF_SHARE, Plan, finalists, make_plan
from promptopt.proof import prove
from promptopt.providers import LitellmTransport, SimulatorTransport, Transport
from promptopt.result import Improvement, Result, Status, make_result
from promptopt.study import SearchSize, Study
from promptopt.task import Task
from promptopt.types import Budget, Candidate, Prompt


class Run:
    """One run of a plan in a run folder; `execute` may be called once.

    Args:
        front_matter: of the prompt file, copied into best.md.
        transports: by model name, "" for all others; None = litellm and the simulator.
        announce: called once with the run when its folder is agreed on, before anything is spent.

    Raises:
        ConfigError: the simulator is to play a model on data without targets.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        front_matter: str = "",
        transports: Mapping[str, Transport] | None = None,
        retry: RetryPolicy | None = None,
        announce: Callable[[Run], None] | None = None,
    ) -> None:
        self.plan = plan
        self.folder = plan.settings.out or folder.new_folder(plan)
        self.stop = Stop()
        self.state: RunState | None = None
        self.best: Candidate | None = None
        self.n_answers_before = 0
        if transports is None:
            check_simulator(plan)
        self._announce = announce
        self._front_matter = front_matter
        self._transports = transports
        self._retry = retry
        self._started = time.monotonic()
        self._paid: dict[bytes, Amount] = {}

    async def execute(self) -> Result:
        """Run, or go on with a run that stands in the folder, and write its result.

        Raises:
            ConfigError: the folder cannot be used: in use, not writable, of another configuration.
            JournalError: the folder can no longer be written.
            ReplayDiverged: the strategy asks for something else than the journal holds.
        """
        with folder.locked(self.folder), folder.open_journal(self.folder) as journal:
            folder.agree_on_config(self.folder, self.plan, journal, self._front_matter)
            self.n_answers_before = journal.attempt_counts().get("ok", 0)
            if self._announce is not None:
                self._announce(self)
            elapsed_before_s = journal.elapsed_s()
            session = journal.start_session(datetime.now(UTC).isoformat())
            self._started = time.monotonic() - elapsed_before_s
            self.state = state = self._make_state(journal)
            self._paid = state.carry_over(self.plan.worst_pair.tokens)
            clock = asyncio.create_task(self._keep_time(journal, session, elapsed_before_s))
            try:
                status, reason, best = await self._search(state)
                proof: Improvement | None = None
                if status in ("completed", "budget_exhausted"):
                    status, reason, proof = await self._prove(state, status, reason, best)
            finally:
                clock.cancel()
            if status == "failed":  # the gaps before an outage are its beginning: a resumed run asks again
                journal.forget_events("gaps", state.fresh_gaps)
            journal.set_elapsed(session, self.elapsed_s - elapsed_before_s)
            await journal.committed()
            self.best = best
            result = replace(
                make_result(self.plan, state, best, proof, self._front_matter),
                status=status,
                reason=reason,
                duration_s=round(self.elapsed_s, 3),
                out=str(self.folder),
            )
            folder.write(self.folder / "best.md", promptfile.format_prompt(best.prompt, self._front_matter))
            folder.write(self.folder / "result.json", result.to_json())
            return result

    async def _keep_time(self, journal: Journal, session: int, elapsed_before_s: float) -> None:
        """Journal every second how long the session lasts, so that a kill does not stop the clock."""
        while True:
            await asyncio.sleep(1)
            journal.set_elapsed(session, self.elapsed_s - elapsed_before_s)
            await journal.committed()

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
        lease.precharge(self._paid)
        study = Study(state, lease, self._size(state))
        initial = Candidate(plan.task.initial)
        state.meet(initial)
        status: Status = "completed"
        reason = "the search ended by itself"
        best: Candidate | None = None
        try:
            found = await plan.optimizer.optimize(study)
            state.meet(found)  # a prompt that the gate refuses is no result
            best = found
        except BudgetExhausted as error:
            status, reason = "budget_exhausted", str(error)
        except Interrupted as error:
            status, reason = "interrupted", str(error)
        except (ProviderError, TaskError) as error:
            status, reason = "failed", str(error)
        best = best or (state.proposals[-1] if state.proposals else initial)
        if status in ("failed", "interrupted") or not plan.holdout:
            return status, reason, best
        left = Lease(search.minus(lease.spent), self.stop)
        left.precharge(dict.fromkeys(self._paid, Amount()))
        try:
            best = await self._choose(state, left, initial, best)
        except Interrupted as error:
            return "interrupted", str(error), best
        except (ProviderError, TaskError) as error:
            return "failed", f"choosing on the hold-out failed: {error}", best
        return status, reason, best

    def _size(self, state: RunState) -> SearchSize:
        """Return the size of the search: of the run's first session, so that a raised budget goes on with it."""
        state.journal.add_event("size", "", 0, {"n_calls": self.plan.search_calls})
        known = state.journal.event("size", "")
        return SearchSize(known.get("n_calls", self.plan.search_calls))

    async def _choose(self, state: RunState, lease: Lease, initial: Candidate, best: Candidate) -> Candidate:
        """Return the finalist with the best hold-out mean; ties go to the search's order, then the initial."""
        candidates = finalists(state.proposals, best)
        if initial.id not in {candidate.id for candidate in candidates}:
            candidates.append(initial)
        pairs = [(candidate, example) for candidate in candidates for example in self.plan.holdout]
        try:
            cells = await fill_cells(state, lease, "hold-out", pairs)
        except BudgetExhausted as error:
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
        """Compare best and initial prompt on the test split, and say how the run then ends."""
        if not self.plan.task.test:
            return status, reason, None
        state.phase = "proof"
        lease = Lease(self.plan.limit.minus(_spent(state)), self.stop)
        lease.precharge(dict.fromkeys(self._paid, Amount()))
        try:
            return status, reason, await prove(self.plan, state, lease, best)
        except Interrupted as error:
            return "interrupted", str(error), None
        except BudgetExhausted as error:
            return "budget_exhausted", f"the proof could not be completed: {error}", None
        except (ProviderError, TaskError) as error:
            return "failed", f"the proof could not be completed: {error}", None

    # Set-up -----------------------------------------------------------------------------------------

    def _make_state(self, journal: Journal) -> RunState:
        plan = self.plan
        gateway = Gateway(
            journal,
            self._transports or make_transports(plan),
            concurrency=plan.concurrency,
            retry=self._retry,
            stop=self.stop,
            pacing=Pacing(plan.settings.rpm, plan.settings.tpm),
        )
        seconds = plan.settings.budget.seconds
        if seconds is not None:
            share = 1.0 if not plan.task.test else float(1 - PROOF_SHARE)
            gateway.deadlines = {"search": self._started + share * seconds, "proof": self._started + seconds}
        return RunState(
            task=plan.open_task,
            models=plan.models,
            gateway=gateway,
            journal=journal,
            gate=Gate(plan.open_task, plan.max_prompt_tokens),
            seed=plan.settings.seed,
            limits=plan.limit,
        )


def check_simulator(plan: Plan) -> None:
    """Raise ConfigError if the simulator is to play a role and has no targets to play it by."""
    simulated = sorted({spec.name for spec in plan.models.values() if spec.is_simulated})
    rows = (*plan.task.train, *plan.task.dev, *plan.holdout, *plan.task.test, *plan.spare_test)
    unknown = [example.id for example in rows if example.target is None]
    if simulated and unknown:
        raise ConfigError(
            f"the simulator ({', '.join(simulated)}) cannot play a model here: it answers by the targets of the "
            f"data, and example {unknown[0]!r} has none; take a real model, or data with targets and --metric "
            "none: then the simulator alone knows them"
        )


def make_transports(plan: Plan) -> dict[str, Transport]:
    """Return the transports of a plan's models: the simulator knows the task, litellm the rest."""
    transports: dict[str, Transport] = {"": LitellmTransport(tuple(plan.models.values()))}
    for spec in plan.models.values():
        if spec.is_simulated and spec.name not in transports:
            from promptopt.simulator import Simulator, landscape

            simulator = Simulator(landscape(spec.name.partition(":")[2] or "default"))
            task = plan.task
            simulator.learn((*task.train, *task.dev, *plan.holdout, *task.test, *plan.spare_test))
            transports[spec.name] = SimulatorTransport(simulator, spec)
    return transports


# Doors for Python users ---------------------------------------------------------------------------


def prepare(
    prompt: str | Path | Prompt, task: Task | str | Path, settings: Settings, **data_options: Any
) -> tuple[Plan, str]:
    """Return the plan of a run and the prompt file's front matter; nothing is spent.

    Args:
        data_options: metric, target, input, description for a task given as data; they win over the
            prompt file's front matter.

    Raises:
        ConfigError: something is wrong with the prompt, the data or the settings.
    """
    file = load_prompt(prompt)
    notes: tuple[str, ...] = ()
    given = {key: value for key, value in data_options.items() if value is not None}
    source = {"prompt_file": str(prompt.resolve())} if isinstance(prompt, Path) else {}
    if isinstance(task, Task):
        if given:
            raise ConfigError(f"{', '.join(sorted(given))}: only for data; a Task has its own, set it there")
    else:
        said = {key: value for key, value in file.settings.items() if key in DATA_OPTIONS} | given
        is_file = os.path.exists(task)
        source |= {"data": str(Path(task).resolve()) if is_file else str(task)} | said
        needs = None if settings.optimizer == "auto" else registry.optimizer_class(settings.optimizer).requires
        needs_labels = None if needs is None else "labels" in needs
        try:
            task, notes = load_task(
                task, seed=settings.seed, columns_of=file.prompt, needs_labels=needs_labels, **said
            )
        except ConfigError as error:
            own = {key: value for key, value in file.settings.items() if key not in given}
            raise ConfigError(name_front_matter(str(error), own, file.front_matter, str(prompt))) from error
    task = set_initial(task, file, str(prompt) if isinstance(prompt, Path) else None)
    return replace(make_plan(task, settings, notes), source=source), file.front_matter


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
    return await _make_run(prompt, task, model, optimizer, budget, settings).execute()


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
        settings: any other field of `promptopt.Settings`, such as `seed`, `out`, `api_base`,
            `options={"population_size": 6}`; for data also `metric`, `target`, `input`, `description`.

    Returns:
        The result, which also lies in its `out` folder as result.json and best.md.

    Raises:
        ConfigError: something is wrong with the input; nothing was spent.
        JournalError: the run folder cannot be used.
    """
    return run_in_thread(_make_run(prompt, task, model, optimizer, budget, settings))


def run_in_thread(run: Run, watch: Callable[[Run], None] | None = None) -> Result:
    """Execute a run on its own event loop in its own thread; `watch` is called every 0.2 s meanwhile.

    The first KeyboardInterrupt asks the run to stop; a second one leaves at once, losing what is in flight.
    """
    outcome: list[Result | BaseException] = []
    is_over = threading.Event()

    def work() -> None:
        try:
            outcome.append(asyncio.run(run.execute()))
        except BaseException as error:  # noqa: BLE001  # carried to the calling thread and raised there
            outcome.append(error)
        finally:
            is_over.set()

    threading.Thread(target=work, name="promptopt", daemon=True).start()
    while not is_over.is_set():
        try:
            is_over.wait(0.2)  # Thread.join would declare the thread dead when it is interrupted (bpo-45274)
            if watch is not None:
                watch(run)
        except KeyboardInterrupt:
            if run.stop.is_set:
                raise
            run.stop.set()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _make_run(
    prompt: str | Path | Prompt,
    task: Task | str | Path,
    model: str,
    optimizer: str,
    budget: Budget | None,
    rest: Mapping[str, Any],
) -> Run:
    """Return the run that the arguments of `optimize` mean."""
    names = set(Settings.__dataclass_fields__)
    for key in rest:
        if key not in names and key not in DATA_OPTIONS:
            raise ConfigError(f"optimize() has no setting {key!r}: {nearest(key, {*names, *DATA_OPTIONS})}")
    data_options = {key: rest[key] for key in DATA_OPTIONS if key in rest}
    fields = {key: value for key, value in rest.items() if key not in DATA_OPTIONS}
    if fields.get("out") is not None:
        fields["out"] = Path(fields["out"])
    fields["options"] = {key: str(value) for key, value in fields.get("options", {}).items()}
    chosen = Settings(model=model, optimizer=optimizer, budget=budget or Budget(), **fields)
    plan, front_matter = prepare(prompt, task, chosen, **data_options)
    return Run(plan, front_matter=front_matter)


def _spent(state: RunState) -> Amount:
    """Return all that the run has taken so far, before its budget was raised too."""
    total = Amount()
    for tally in state.tallies.values():
        total = total.plus(tally.amount)
    return total
