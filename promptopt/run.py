"""Runs a plan: search, choice among finalists, proof on the sealed test split, result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from promptopt import folder, promptfile
from promptopt.asking import RunState, broken_reservation
from promptopt.errors import (
    BudgetExhausted,
    ConfigError,
    Interrupted,
    ProviderError,
    TaskError,
)
from promptopt.evaluation import cell_call, fill_cells
from promptopt.gate import Gate
from promptopt.gateway import Call, Gateway, RetryPolicy
from promptopt.journal import Journal
from promptopt.ledger import Amount, Lease, Stop
from promptopt.meter import Meter
from promptopt.pacing import Pacing
from promptopt.plan import PROOF_SHARE, Plan, finalists
from promptopt.probe import probe
from promptopt.progress import Progress, Stage
from promptopt.proof import prove
from promptopt.providers import LitellmTransport, ModelSpec, SimulatorTransport, Transport
from promptopt.result import Improvement, Result, Status, make_result, warnings_of
from promptopt.stats import RULES
from promptopt.study import SearchSize, Study
from promptopt.task import Task
from promptopt.types import Candidate, Example, Phase, Response, Role

_TELL_EVERY_S = 0.5


class Run:
    """One run of a plan in a run folder; `execute` may be called once.

    Args:
        front_matter: of the prompt file, copied into best.md.
        transports: by model name, "" for all others; None = litellm and the simulator.
        announce: called once with the run when its folder is agreed on, before anything is spent.
        shared: the journal that it shares with other runs; None = one of its own in its folder.

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
        shared: folder.Shared | None = None,
    ) -> None:
        self.plan = plan
        self.folder = plan.settings.out or folder.new_folder(f"{plan.task.name}-{plan.optimizer_name}")
        self.stop = Stop()
        self.state: RunState | None = None
        self.best: Candidate | None = None
        self.progress: Progress | None = None
        self.n_answers_before = 0
        if transports is None:
            check_simulator(plan)
        self._announce = announce
        self._shared = shared
        self._front_matter = front_matter
        self._transports = transports
        self._retry = retry
        self._started = time.monotonic()
        self._stage: Stage = "search"
        self._meter = Meter(plan, 0.0)
        self._paid: dict[Phase, dict[bytes, Amount]] = {}
        self._size = SearchSize(plan.search_calls)

    async def execute(self) -> Result:
        """Run, or go on with a run that stands in the folder, and write its result.

        Raises:
            ConfigError: the folder cannot be used: in use, not writable, of another configuration.
            JournalError: the folder can no longer be written.
            ReplayDiverged: the strategy asks for something else than the journal holds.
        """
        with folder.held(self.folder, self._shared) as journal:
            folder.agree_on_config(self.folder, self.plan, journal, self._front_matter)
            self.plan = self._as_begun(journal)
            folder.keep_facts(self.folder, self.plan.models.values())
            self.n_answers_before = journal.attempt_counts().get("ok", 0)
            if self._announce is not None:
                self._announce(self)
            elapsed_before_s = journal.elapsed_s()
            session = journal.start_session(datetime.now(UTC).isoformat())
            self._started = time.monotonic() - elapsed_before_s
            self._meter = Meter(self.plan, elapsed_before_s)
            self.state = state = self._make_state(journal)
            self._paid = state.carry_over(self.plan.worst_pair.tokens)
            self._tell(state)
            clock = asyncio.create_task(self._keep_time(state, session, elapsed_before_s))
            try:
                status, reason, best = await self._search(state)
                self.best = best
                proof: Improvement | None = None
                if status in ("completed", "budget_exhausted"):
                    status, reason, proof = await self._prove(state, status, reason, best)
            except BaseException:
                self._tell(state, "stopped")
                raise
            finally:
                clock.cancel()
            if status == "failed" and (over := self._over(state)):
                reason += f"; in all {over} above the budget"
            if status == "failed":  # the gaps before an outage are its beginning: a resumed run asks again
                journal.forget_events("gaps", state.fresh_gaps)
                if not state.tallies and not self.n_answers_before:  # no answer led to what it decided
                    journal.forget_search()
            journal.set_elapsed(session, self.elapsed_s - elapsed_before_s)
            await journal.committed()
            result = replace(
                make_result(self.plan, state, best, proof, self._front_matter),
                status=status,
                reason=reason,
                duration_s=round(self.elapsed_s, 3),
                out=str(self.folder),
            )
            result = replace(result, warnings=warnings_of(result, self.plan))
            folder.write(self.folder / "best.md", promptfile.format_prompt(best.prompt, self._front_matter))
            folder.write_chat(self.folder, self.plan, best.prompt)
            folder.write(self.folder / "result.json", result.to_json())
            self._tell(state, "ended")
            return result

    def _over(self, state: RunState) -> str:
        """Return what an endpoint that broke its reservation took above the whole budget; "" = it was kept."""
        return state.spent("search", "proof").minus(self.plan.limit).in_words()

    async def _keep_time(self, state: RunState, session: int, elapsed_before_s: float) -> None:
        """Journal now and then how far the run is and how long it lasts, so that a kill stops no clock."""
        while True:
            await asyncio.sleep(_TELL_EVERY_S)
            state.journal.set_elapsed(session, self.elapsed_s - elapsed_before_s)
            self._tell(state)
            await state.journal.committed()

    def _tell(self, state: RunState, stage: Stage | None = None) -> None:
        """Note how far the run is, for the screen and for whoever watches from another process."""
        self._stage = stage or self._stage
        made = (state, self._stage, self.elapsed_s, self.best)
        self.progress = self._meter.sample(*made, is_stopping=self.stop.is_set)
        state.journal.set_progress(asdict(self.progress))

    def _inspect(self, call: Call, response: Response) -> ProviderError | None:
        """Look at a live answer; return why it must be the last one."""
        self._meter.note(call, response)
        return broken_reservation(self.plan.models, self.plan.limit, call, response)

    @property
    def elapsed_s(self) -> float:
        """Seconds that the run has lasted, over all sessions."""
        return time.monotonic() - self._started

    # Phases -----------------------------------------------------------------------------------------

    async def _search(self, state: RunState) -> tuple[Status, str, Candidate]:
        """Run the strategy, then choose among finalists on the hold-out where there is one."""
        plan = self.plan
        search = plan.limit.minus(self._proof_reserve(state))
        lease = Lease(search.minus(plan.gate_reserve), self.stop)
        lease.precharge(self._paid["search"])
        study = Study(state, lease, self._size)
        initial = Candidate(plan.task.initial)
        state.meet(initial)
        status: Status = "completed"
        reason = "the search ended by itself"
        best: Candidate | None = None
        try:
            if plan.settings.probe:
                await probe(state, lease)
            found = await plan.optimizer.optimize(study)
            state.meet(found)  # a prompt that the gate refuses is no result
            best = found
            if state.gateway.n_failed and not state.tallies:
                status, reason = "failed", f"no call was answered: {state.gateway.last_failure}"
        except BudgetExhausted as error:  # without one answer, it was an outage
            status, reason = "budget_exhausted" if state.tallies else "failed", str(error)
        except Interrupted as error:
            status, reason = "interrupted", str(error)
        except (ProviderError, TaskError) as error:
            status, reason = "failed", str(error)
        best = best or (state.proposals[-1] if state.proposals else initial)
        if status in ("failed", "interrupted") or not plan.holdout:
            return status, reason, best
        left = Lease(search.minus(lease.spent), self.stop)
        self._set_free(left)
        try:
            best = await self._choose(state, left, initial, best)
        except Interrupted as error:
            return "interrupted", str(error), best
        except (ProviderError, TaskError) as error:
            return "failed", f"choosing on the hold-out failed: {error}", best
        return status, reason, best

    def _proof_reserve(self, state: RunState) -> Amount:
        """Return what the search must leave: also for a proof besides that of another prompt before a raise."""
        paid, initial = self._paid["proof"], Candidate(self.plan.task.initial)
        keys = [cell_call(state, initial, example).key for example in self.plan.task.test] if paid else []
        known = Amount()
        for key in keys:
            known = known.plus(paid.get(key, Amount()))
        return self.plan.proof_reserve.plus(state.spent("proof")).minus(known)

    def _set_free(self, lease: Lease) -> None:
        """Let all that was paid before a raise be free in a lease whose limit it does not count in."""
        for paid in self._paid.values():
            lease.precharge(dict.fromkeys(paid, Amount()))

    async def _choose(self, state: RunState, lease: Lease, initial: Candidate, best: Candidate) -> Candidate:
        """Return the finalist with the best hold-out mean; ties go to the search's order, then the initial."""
        candidates = finalists(state.proposals, best)
        if initial.id not in {candidate.id for candidate in candidates}:
            candidates.append(initial)
        pairs = [(candidate, example) for candidate in candidates for example in self.plan.holdout]
        self._tell(state, "choice")
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
        self._tell(state, "proof")
        lease = Lease(self.plan.limit.minus(state.spent("search", "proof")), self.stop)
        self._set_free(lease)
        try:
            return status, reason, await prove(self.plan, state, lease, best)
        except Interrupted as error:
            return "interrupted", str(error), None
        except BudgetExhausted as error:
            return "budget_exhausted", f"the proof could not be completed: {error}", None
        except (ProviderError, TaskError) as error:
            return "failed", f"the proof could not be completed: {error}", None

    # Set-up -----------------------------------------------------------------------------------------

    def _as_begun(self, journal: Journal) -> Plan:
        """Return the plan with the size and hold-out of the first session: a raised budget goes on with them."""
        plan = self.plan
        search = plan.limit.minus(plan.proof_reserve).minus(plan.gate_reserve)
        most = search.calls if search.limits_calls else None
        begun = {"n_calls": plan.search_calls, "most_calls": most, "held_out": len(plan.holdout)}
        journal.add_event("size", "", 0, begun)
        known: dict[str, Any] = journal.event("size", "") or begun
        self._size = SearchSize(known["n_calls"], known["most_calls"])
        return plan.with_holdout(known["held_out"])

    def _make_state(self, journal: Journal) -> RunState:
        plan = self.plan
        gateway = Gateway(
            journal,
            self._transports or make_transports(plan.models, plan.task, (*plan.holdout, *plan.spare_test)),
            concurrency=plan.concurrency,
            retry=self._retry,
            stop=self.stop,
            pacing=Pacing(plan.settings.rpm, plan.settings.tpm),
            inspect=self._inspect,
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
            rule=RULES.get(plan.settings.race or ""),
            objectives=tuple(plan.settings.objectives or ("score",)),
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


def make_transports(
    models: Mapping[Role, ModelSpec], task: Task, examples: Sequence[Example]
) -> dict[str, Transport]:
    """Return the transports of a run's models: the simulator knows the examples, litellm does the rest."""
    transports: dict[str, Transport] = {"": LitellmTransport(tuple(models.values()))}
    for spec in models.values():
        if spec.is_simulated and spec.name not in transports:
            from promptopt.simulator import Simulator, landscape

            simulator = Simulator(landscape(spec.name.partition(":")[2] or "default"))
            simulator.learn(dict.fromkeys((*task.train, *task.dev, *task.test, *examples)))
            transports[spec.name] = SimulatorTransport(simulator, spec)
    return transports
