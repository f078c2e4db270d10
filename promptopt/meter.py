"""Measures a run while it goes on: what was spent, how fast, and what both say of the end.

Projections are no promises. They hold the mean of an answer so far, drawn a little towards the forecast's, against
what the limits leave the search; and a strategy may end by itself earlier.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from decimal import Decimal

from promptopt.asking import RunState, actual_amount
from promptopt.gateway import Call
from promptopt.ledger import Amount
from promptopt.plan import PROOF_SHARE, Plan
from promptopt.progress import Limited, Progress, Stage, Standing, Use, this_host
from promptopt.stats import wilson_interval
from promptopt.types import Candidate, Response

WINDOW_S = 30.0
# Before so many live answers and seconds, a speed says nothing of the end.
_LEAST_ANSWERS, _LEAST_S = 20, 5.0
_FORECAST_WEIGHT = 20  # answers that the forecast's mean counts for
_MARGIN = 1.25  # by which the time left is widened, to both sides
_LONGEST_FAILURE = 200
_STANDING_S = 5e-4  # seconds between two looks at the scores, for each dev example: under 0.2% of the time


class Meter:
    """What a run's own process knows of its progress.

    Args:
        plan: of the run.
        started_s: seconds that earlier sessions of the run lasted.
    """

    def __init__(self, plan: Plan, started_s: float) -> None:
        self._plan = plan
        self._arrived: dict[bytes, Amount] = {}  # answers that their batch has not been charged for yet
        self._n_live = 0
        self._first_s: float | None = None
        self._samples: deque[tuple[float, int]] = deque([(started_s, 0)])
        self._stage: Stage = "search"
        self._n_at_stage = 0
        self._standing_key = ("", -1)
        self._standing_s = 0.0
        self._standings: tuple[Standing | None, Standing | None] = (None, None)

    def note(self, call: Call, response: Response) -> None:
        """Count a live answer, before the batch that it belongs to is complete."""
        self._n_live += 1
        self._arrived[call.key] = actual_amount(response, Amount(1))

    def sample(
        self, state: RunState, stage: Stage, elapsed_s: float, best: Candidate | None, *, is_stopping: bool
    ) -> Progress:
        """Return how far the run is.

        Args:
            best: the outcome of the search; None = it goes on, the latest proposal stands for it.
        """
        plan = self._plan
        spent = self._spent(state)
        if stage != self._stage:
            self._stage, self._n_at_stage = stage, spent.calls
        rate = self._rate(elapsed_s)
        n_search, n_later = self._calls_left(spent, rate, elapsed_s)
        found = best or (state.proposals[-1] if state.proposals else None)
        standing, initial = self._standing(state, found, elapsed_s)
        return Progress(
            stage=stage,
            task=plan.task.name,
            optimizer=plan.optimizer_name,
            models=tuple((role, spec.name) for role, spec in plan.models.items()),
            simulated=tuple(role for role, spec in plan.models.items() if spec.is_simulated),
            pid=os.getpid(),
            host=this_host(),
            elapsed_s=round(elapsed_s, 3),
            is_scored=plan.task.is_scored,
            best=standing,
            initial=initial,
            is_initial_best=found is None or found.id == plan.task.initial.id,
            n_tried=len(state.tried),
            n_accepted=state.n_accepted,
            uses=self._uses(state, spent, n_search if stage == "search" else n_later, rate, elapsed_s),
            n_cached=state.gateway.n_from_journal,
            n_failed=state.gateway.n_failed,
            last_failure=state.gateway.last_failure[:_LONGEST_FAILURE],
            n_missing=state.n_missing,
            calls_per_s=rate,
            races=tuple(state.races.values()),
            left_s=self._left_s(n_search + n_later, rate, elapsed_s),
            is_stopping=is_stopping,
        )

    def _spent(self, state: RunState) -> Amount:
        """Return what was taken so far, with answers that have arrived and were not charged yet."""
        for key in [key for key in self._arrived if state.has_counted(key)]:
            del self._arrived[key]
        total = state.spent("search", "proof")
        for amount in self._arrived.values():
            total = total.plus(amount)
        return total

    def _rate(self, elapsed_s: float) -> float | None:
        """Return the live answers a second over the window; None = too early to tell."""
        if self._n_live and self._first_s is None:
            self._first_s = self._samples[-1][0]
        self._samples.append((elapsed_s, self._n_live))
        while len(self._samples) > 2 and self._samples[1][0] <= elapsed_s - WINDOW_S:
            self._samples.popleft()
        since_s, n_before = self._samples[0]
        if self._first_s is not None and self._first_s > since_s:  # before, all answers came from the journal
            since_s, n_before = self._first_s, 0
        passed_s = elapsed_s - since_s
        return (self._n_live - n_before) / passed_s if passed_s >= 1 else None

    def _calls_left(self, spent: Amount, rate: float | None, elapsed_s: float) -> tuple[int, int]:
        """Return the answers that are reckoned to be asked for until the search ends, and after it."""
        choice, proof = (self._expected(phase).calls for phase in ("choice", "proof"))
        done = spent.calls - self._n_at_stage
        if self._stage == "search":
            return max(0, self._search_end(spent, rate, elapsed_s) - spent.calls), choice + proof
        if self._stage == "choice":
            return 0, max(0, choice - done) + proof
        return 0, max(0, proof - done) if self._stage == "proof" else 0

    def _search_end(self, spent: Amount, rate: float | None, elapsed_s: float) -> int:
        """Return how many answers the search is reckoned to have used when it ends."""
        plan = self._plan
        limit = plan.limit.minus(plan.proof_reserve).minus(plan.gate_reserve)
        mean, expected = self._mean(spent), self._expected("search").calls
        ends: list[float] = [expected] if spent.calls < expected else []
        if limit.limits_calls:
            ends.append(limit.calls)
        if plan.settings.budget.tokens is not None and mean.tokens:
            ends.append(spent.calls + (limit.tokens - spent.tokens) / mean.tokens)
        if limit.usd.is_finite() and mean.usd:
            ends.append(spent.calls + float((limit.usd - spent.usd) / mean.usd))
        if (deadline_s := self._search_deadline_s) is not None and rate is not None:
            ends.append(spent.calls + rate * max(0.0, deadline_s - elapsed_s))
        return max(spent.calls, round(min(ends, default=spent.calls)))

    @property
    def _search_deadline_s(self) -> float | None:
        seconds = self._plan.settings.budget.seconds
        if seconds is None or not self._plan.task.test:
            return None if seconds is None else float(seconds)
        return float(seconds) * float(1 - PROOF_SHARE)

    def _mean(self, spent: Amount) -> Amount:
        """Return what an answer takes on average, drawn towards the forecast's mean."""
        expected, w = self._expected("search", "choice", "proof"), _FORECAST_WEIGHT
        if not expected.calls:
            w, expected = 0, Amount(1)
        n = max(1, spent.calls + w)
        tokens = (spent.tokens + w * expected.tokens / expected.calls) / n
        usd = (spent.usd + w * expected.usd / expected.calls) / n
        return Amount(1, max(1, round(tokens)), usd)

    def _expected(self, *phases: str) -> Amount:
        parts = [part for part in self._plan.forecast.parts if part.phase in phases]
        usd = sum((part.usd or Decimal(0) for part in parts), Decimal(0))
        return Amount(sum(part.calls for part in parts), sum(part.tokens for part in parts), usd)

    def _uses(
        self, state: RunState, spent: Amount, n_left: int, rate: float | None, elapsed_s: float
    ) -> tuple[Use, ...]:
        budget, mean = self._plan.settings.budget, self._mean(spent)
        is_priced = budget.usd is not None or all(t.cost_usd is not None for t in state.tallies.values())
        usd = float(spent.usd) if is_priced else None
        rows: Iterable[tuple[Limited, float | None, object, float]] = (
            ("calls", spent.calls, budget.calls, n_left),
            ("tokens", spent.tokens, budget.tokens, n_left * mean.tokens),
            ("usd", usd, budget.usd, float(n_left * mean.usd)),
        )
        uses = [
            Use(name, now, None if limit is None else float(str(limit)), None if now is None else now + more)
            for name, now, limit, more in rows
        ]
        end_s = elapsed_s + n_left / rate if rate and self._is_steady(elapsed_s) else None
        seconds = None if budget.seconds is None else float(budget.seconds)
        if end_s is not None and seconds is not None:
            end_s = min(end_s, max(seconds, elapsed_s))
        return (*uses, Use("seconds", round(elapsed_s, 3), seconds, None if end_s is None else round(end_s, 1)))

    def _is_steady(self, elapsed_s: float) -> bool:
        """Return whether speed has been seen for long enough to say something of the end."""
        is_long = self._first_s is not None and elapsed_s - self._first_s >= _LEAST_S
        return is_long and self._n_live >= _LEAST_ANSWERS

    def _left_s(self, n_left: int, rate: float | None, elapsed_s: float) -> tuple[float, float] | None:
        """Return the least and the most seconds that so many answers are reckoned to take."""
        if not rate or not self._is_steady(elapsed_s) or self._stage in ("ended", "stopped"):
            return None
        usual = self._n_live / (elapsed_s - (self._first_s or 0.0))
        low, high = n_left / max(rate, usual) / _MARGIN, n_left / min(rate, usual) * _MARGIN
        if (seconds := self._plan.settings.budget.seconds) is not None:
            most = max(0.0, float(seconds) - elapsed_s)
            low, high = min(low, most), min(high, most)
        return round(low, 1), round(high, 1)

    def _standing(
        self, state: RunState, best: Candidate | None, elapsed_s: float
    ) -> tuple[Standing | None, Standing | None]:
        """Return the best prompt's standing, and the initial one's on the same examples; less often if many."""
        if best is None or not state.task.is_scored:
            return None, None
        key = (best.id, len(state.cells))
        is_due = elapsed_s - self._standing_s >= _STANDING_S * len(state.task.dev) or self._stage == "ended"
        if key[0] != self._standing_key[0] or (key != self._standing_key and is_due):
            self._standing_s = elapsed_s
            cells = [(state.cells.get((best.id, e.id)), e.id) for e in state.task.dev]
            known = [(cell.score.value, name) for cell, name in cells if cell is not None]
            others = (state.cells.get((state.task.initial.id, name)) for _, name in known)
            scores = [cell.score.value for cell in others if cell is not None]
            self._standing_key = key
            self._standings = _standing([value for value, _ in known]), _standing(scores)
        return self._standings


def _standing(scores: list[float]) -> Standing | None:
    if not scores:
        return None
    n, total = len(scores), min(float(sum(scores)), float(len(scores)))
    low, high = wilson_interval(total, n)
    return Standing(total / n, n, (float(low), float(high)))
