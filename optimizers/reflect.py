"""Reflect: a hill-climb on the incumbent's current failures, economical with evaluations.

Each child carries several edits, made on disjoint groups of the failures of the best prompt so far, and a change
of its demonstrations, before it is evaluated once. Every answer on train serves twice: as a failure to reflect on,
or as a demonstration. A child leaves its challenge as soon as it is clearly behind.

Our own combination of published parts: critiques before edits (ProTeGi, Pryzant et al. 2023, arXiv 2305.03495),
demonstrations from the model's own right answers (DSPy, Khattab et al. 2023, arXiv 2310.03714), batches of
failures with what the metric said (GEPA, Agrawal et al. 2025, arXiv 2507.19457). What parts of it earn:
docs/benchmarks.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from types import MappingProxyType
from typing import Any, ClassVar

from promptopt.demonstration import demonstrate, plain_output
from promptopt.option import check_range
from promptopt.stats import SAME, blocks
from promptopt.study import Study
from promptopt.template import render_demo, substitute
from promptopt.types import Candidate, Demo, Example, Role

_CASE = """A language model follows this prompt:
<prompt>
{instruction}
</prompt>
The task: {description}

On these inputs it did badly:
{failures}
"""

CRITIQUE = f"""{_CASE}
Give three reasons, each in a sentence or two, why the prompt leads to such failures. Speak of what it says, leaves
open or gets wrong, not of single inputs."""

REWRITE = f"""{_CASE}{{reasons}}
Write a better prompt. State general rules that would have prevented such failures, keep what works, and copy none
of the inputs above.
{{demands}}
Put the whole prompt between <prompt> and </prompt>."""

_REASONS = "\nWhat may be the reasons:\n{critique}\n"
_LONGEST_REPLY, _LONGEST_SHOWN = 400, 1500
_MOST_IDLE = 60
_SOME_ANSWERS, _MANY_ANSWERS = 600, 1000
_DEAR = 30  # answers that a text costs


@dataclass(frozen=True)
class Failure:
    """An example of train on which the incumbent did not score 1, with its reply and what the metric said."""

    example: Example
    reply: str
    feedback: str


@dataclass
class _Climb:
    """What the climb knows.

    Args:
        best: the incumbent.
        good: replies that scored 1, by example; without a target only those short enough for a demonstration.
        hard: examples with a target on which an incumbent failed.
        fails: the incumbent's failures.
        tried: ids of all prompts that were evaluated or are the incumbent.
        n_fresh: train examples that have been used in turn.
        n_edits: rewrites of a child.
        p_bare: chance that a rewritten child shows no demonstrations.
    """

    best: Candidate
    rows: Sequence[Example]
    train: Sequence[Example]
    scores: dict[str, float] = field(default_factory=dict)
    good: dict[str, str] = field(default_factory=dict)
    hard: dict[str, Example] = field(default_factory=dict)
    fails: list[Failure] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)
    n_fresh: int = 0
    n_edits: int = 2
    p_bare: float = 0.0


@dataclass(frozen=True)
class Reflect:
    """Reflection on failures with demonstrations: several edits before each evaluation.

    Args:
        edits: rewrites of a child before it is evaluated, each on failures of its own; None = 3, from 600 task
            answers on 2.
        critique: ask for reasons before each rewrite; None = yes, unless the budget is in dollars and a text of
            the optimizer model costs as much as 30 answers of the task model.
        show: failures that a rewrite shows.
        n_fail: failures to collect of each incumbent.
        max_fresh: most train examples that are tried for them at a time.
        max_demos: most demonstrations of a prompt; 0 = none at all.
        p_bare: chance that a rewritten child shows no demonstrations; None = 0, from 600 task answers on 0.15.
        p_drop: chance that a change of demonstrations takes some or all of them away.
        p_hard: chance that a new demonstration is one that an incumbent failed on, with its target.
        demo_every: every so many children, one changes demonstrations alone.
        block: dev examples between two looks at a child.
        z: standard errors of its lead by which a child may be behind before it leaves.
        rows_factor: dev examples to evaluate on, times the root of the task answers at hand.
        min_rows: least dev examples.
        children: children of a round, made at once; None = 1, from 1,000 task answers on 3.
    """

    edits: int | None = None
    critique: bool | None = None
    show: int = 6
    n_fail: int = 8
    max_fresh: int = 20
    max_demos: int = 8
    p_bare: float | None = None
    p_drop: float = 0.3
    p_hard: float = 0.5
    demo_every: int = 3
    block: int = 10
    z: float = 0.7
    rows_factor: float = 2.0
    min_rows: int = 24
    children: int | None = None

    source: ClassVar[str] = "own, after arXiv 2305.03495, 2310.03714, 2507.19457"
    requires: ClassVar[frozenset[str]] = frozenset({"scores", "optimizer model"})
    usual_calls: ClassVar[str] = "from 100; 300 to 3,000 are usual"
    when: ClassVar[str] = "scores at hand: labels, a function or a judge; failures tell what the prompt lacks"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = MappingProxyType({})

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work."""
        check_range(self, "show", "n_fail", "max_fresh", "demo_every", "block", "min_rows", at_least=1)
        check_range(self, "edits", "children", at_least=1)
        check_range(self, "max_demos", "rows_factor", "z", at_least=0)
        check_range(self, "p_bare", "p_drop", "p_hard", at_least=0, at_most=1)

    def minimum_calls(self) -> int:
        """Return the answers below which a search makes no sense: the initial prompt, its failures, one child."""
        n_rows = self._n_rows(1)
        return 2 * min(n_rows, 24) + self.n_fail + self._n_written(1)

    def forecast(self, n_calls: int) -> Mapping[Role, int]:
        """Return the expected answers by role for a search of `n_calls`."""
        n_rows = self._n_rows(n_calls)
        written = self._n_written(n_calls) * (1 - 1 / self.demo_every)
        each = 0.6 * n_rows + 0.2 * self.max_fresh
        n_children = max(0.0, n_calls - n_rows - self.max_fresh) / (written + each)
        n_written = min(n_calls, round(n_children * written))
        return {"optimizer": n_written, "task": n_calls - n_written}

    def at_price(self, ratio: float) -> tuple[Reflect, str]:
        """Return itself without critiques where a text costs so many answers that more children are better."""
        if self.critique is not None or ratio < _DEAR:
            return self, ""
        note = (
            f"critique off: a text of the optimizer model costs about {ratio:,.0f} answers (--set critique=true)"
        )
        return replace(self, critique=False), note

    def _n_edits(self, n_answers: int) -> int:
        return self.edits or (2 if n_answers >= _SOME_ANSWERS else 3)

    def _n_written(self, n_answers: int) -> int:
        return self._n_edits(n_answers) * (1 if self.critique is False else 2)

    def _n_rows(self, n_answers: int) -> int:
        return max(self.min_rows, round(self.rows_factor * math.sqrt(n_answers)))

    async def optimize(self, study: Study) -> Candidate:
        """Climb until the budget ends, or 60 children in a row were duplicates or invalid."""
        n_answers = self.forecast(study.size.n_calls)["task"]
        dev, train = study.task.dev, study.task.train
        rows = [dev[i] for i in study.rng.permutation(len(dev))[: self._n_rows(n_answers)]]
        shuffled = [train[i] for i in study.rng.permutation(len(train))]
        p_bare = (0.15 if n_answers >= _SOME_ANSWERS else 0.0) if self.p_bare is None else self.p_bare
        climb = _Climb(study.initial, rows, shuffled, n_edits=self._n_edits(n_answers), p_bare=p_bare)
        climb.tried.add(study.initial.id)
        table = await study.evaluate([climb.best], rows)
        climb.scores = dict(zip((e.id for e in rows), table.values[0].tolist(), strict=True))
        study.propose(climb.best)
        await self._collect(study, climb)
        k, n_idle = 0, 0
        while n_idle < _MOST_IDLE:
            n = self._n_children(study, n_answers)
            found = await study.map(lambda branch, i: self._child(branch, climb, i), range(k + 1, k + n + 1))
            k += n
            new = {child.id: child for child in found if child is not None and child.id not in climb.tried}
            climb.tried.update(new)
            n_idle = 0 if new else n_idle + n
            results = await study.map(lambda branch, child: self._challenge(branch, climb, child), new.values())
            better = [result for result in results if result is not None]
            if better:
                await self._accept(study, climb, better)
        return climb.best

    def _n_children(self, study: Study, n_answers: int) -> int:
        """Return the children of the next round: one where several might not all fit any more."""
        n = self.children or (3 if n_answers >= _MANY_ANSWERS else 1)
        each = self._n_written(n_answers) + self._n_rows(n_answers)
        return n if study.remaining_calls >= n * each else 1

    async def _accept(
        self, study: Study, climb: _Climb, better: Sequence[tuple[Candidate, dict[str, float]]]
    ) -> None:
        """Make the best of the accepted children the incumbent; of equal ones the shorter."""
        climb.best, climb.scores = min(better, key=lambda row: (-_mean(row[1]), study.tokens(row[0])))
        study.propose(climb.best)
        await self._collect(study, climb)

    async def _collect(self, study: Study, climb: _Climb) -> None:
        """Find failures of the incumbent on train: among those of the one before, then on fresh examples."""
        shown = {demo.inputs for demo in climb.best.prompt.demos}
        old, climb.fails = [failure.example for failure in climb.fails], []
        await self._try(study, climb, [e for e in old if demonstrate(study.task, e, "").inputs not in shown])
        n_fresh = 0
        most = min(self.max_fresh, len(climb.train))
        while len(climb.fails) < self.n_fail and n_fresh < most:
            n = min(self.n_fail - len(climb.fails), most - n_fresh)
            fresh = [climb.train[(climb.n_fresh + i) % len(climb.train)] for i in range(n)]
            climb.n_fresh, n_fresh = climb.n_fresh + n, n_fresh + n
            known = {failure.example.id for failure in climb.fails} | {e.id for e in old}
            fresh = [e for e in fresh if e.id not in known]
            await self._try(study, climb, [e for e in fresh if demonstrate(study.task, e, "").inputs not in shown])

    async def _try(self, study: Study, climb: _Climb, examples: Sequence[Example]) -> None:
        """Evaluate the incumbent on examples of train, and sort them by how it did."""
        if not examples:
            return
        table = await study.evaluate([climb.best], examples)
        rows = zip(examples, table.values[0].tolist(), table.outputs[0], table.feedback[0], strict=True)
        for example, score, reply, feedback in rows:
            has_target = example.target is not None
            if score >= 1 - SAME:
                if has_target or 0 < len((reply or "").strip()) <= _LONGEST_REPLY:
                    climb.good[example.id] = reply or ""
            elif not math.isnan(score):
                if has_target:  # without one, no right reply is known that a demonstration could show
                    climb.hard[example.id] = example
                climb.fails.append(Failure(example, reply or "", feedback or ""))

    async def _child(self, study: Study, climb: _Climb, k: int) -> Candidate | None:
        """Return child number k of the incumbent; None = the gate refuses it, or nothing was written."""
        best = climb.best
        instruction, demos = best.prompt.instruction, best.prompt.demos
        if k % self.demo_every == 0 or not climb.fails:
            demos = self._vary(study, climb, instruction, demos, 1)
            return study.candidate(instruction, demos, parents=[best], operator="demonstrations")
        order = [climb.fails[i] for i in study.rng.permutation(len(climb.fails))]
        groups = cycle(order)
        for _ in range(climb.n_edits):
            group = list(islice(groups, min(self.show, len(order))))
            instruction = await self._rewrite(study, instruction, group)
        if climb.p_bare and study.rng.random() < climb.p_bare:
            demos = ()
        elif climb.n_edits > 1:
            demos = self._vary(study, climb, instruction, demos, climb.n_edits - 1)
        return study.candidate(instruction, demos, parents=[best], operator="reflection")

    async def _rewrite(self, study: Study, instruction: str, group: Sequence[Failure]) -> str:
        """Return the instruction rewritten to mend a group of failures; as it is where none can be read."""
        fields: dict[str, Any] = {
            "instruction": instruction,
            "description": study.task.description or "see the prompt",
            "failures": "\n\n".join(_shown(study, failure) for failure in group),
        }
        said = await study.generate(CRITIQUE, **fields) if self.critique is not False else []
        reasons = substitute(_REASONS, {"critique": said[0].strip()}) if said else ""
        written = await study.write(REWRITE, "prompt", demands=study.demands, reasons=reasons, **fields)
        return instruction if written is None else written

    def _vary(
        self, study: Study, climb: _Climb, instruction: str, demos: tuple[Demo, ...], n: int
    ) -> tuple[Demo, ...]:
        """Return demonstrations with some added, replaced, or in another order."""
        rng = study.rng
        if demos and rng.random() < self.p_drop:
            n_left = int(rng.integers(len(demos)))
            return tuple(demos[i] for i in sorted(rng.permutation(len(demos))[:n_left].tolist()))
        if len(demos) < self.max_demos and (not demos or rng.random() < 0.6):
            return (*demos, *self._draw(study, climb, instruction, demos, min(2, self.max_demos - len(demos))))
        varied = list(demos)
        if demos and rng.random() < 0.6:
            for i in rng.permutation(len(demos))[:n].tolist():
                varied[i : i + 1] = self._draw(study, climb, instruction, varied, 1) or [varied[i]]
            return tuple(varied)
        return tuple(varied[i] for i in rng.permutation(len(varied)))

    def _draw(self, study: Study, climb: _Climb, instruction: str, demos: Sequence[Demo], m: int) -> list[Demo]:
        """Return up to `m` demonstrations that are not shown yet, those of the rarest targets first."""
        drawn: list[Demo] = []
        by_inputs = {demonstrate(study.task, e, "").inputs: e for e in climb.train}
        for _ in range(m):
            shown = {demo.inputs for demo in (*demos, *drawn)}
            counts = Counter(by_inputs[inputs].target for inputs in shown if inputs in by_inputs)
            pools = [
                [e for e in climb.train if e.id in known and demonstrate(study.task, e, "").inputs not in shown]
                for known in (climb.hard, climb.good)
            ]
            is_good = not study.rng.random() < self.p_hard
            pool = pools[is_good] or pools[not is_good]
            if not pool:
                break
            is_good = pool is pools[1]
            order = [pool[i] for i in study.rng.permutation(len(pool))]
            example = min(order, key=lambda e: counts[e.target])
            reply = climb.good[example.id].strip() if is_good else ""
            output = reply if 0 < len(reply) <= _LONGEST_REPLY else plain_output(instruction, example)
            drawn.append(demonstrate(study.task, example, output))
        return drawn

    async def _challenge(
        self, study: Study, climb: _Climb, child: Candidate
    ) -> tuple[Candidate, dict[str, float]] | None:
        """Return the child with its scores if it beats the incumbent; it leaves as soon as it cannot."""
        pool = [e for e in climb.rows if not math.isnan(climb.scores[e.id])]
        if study.race_rule is not None:
            return await self._race(study, climb, child, pool)
        pool = [pool[i] for i in study.rng.permutation(len(pool))]
        room = sum(1 - climb.scores[e.id] for e in pool)  # what the rest could add at best
        scores: dict[str, float] = {}
        lead, spread = 0.0, 0.0
        for part in blocks(len(pool), self.block):
            table = await study.evaluate([child], pool[part])
            for example, score in zip(pool[part], table.values[0].tolist(), strict=True):
                incumbent = climb.scores[example.id]
                scores[example.id] = score
                room -= 1 - incumbent
                d = 0.0 if math.isnan(score) else score - incumbent
                lead += d
                spread += d * d
            is_hopeless = lead + room < -SAME
            is_behind = len(scores) < len(pool) and lead < -self.z * math.sqrt(spread) - SAME
            if is_hopeless or is_behind:
                return None
        is_shorter = study.tokens(child) < study.tokens(climb.best)
        is_better = lead > SAME or (abs(lead) <= SAME and is_shorter)
        return (child, scores) if is_better else None

    async def _race(
        self, study: Study, climb: _Climb, child: Candidate, pool: Sequence[Example]
    ) -> tuple[Candidate, dict[str, float]] | None:
        """Return the child with its scores if it wins a race against the incumbent, by the rule of the user."""
        winner = (await study.race([climb.best, child], keep=1, examples=pool, block=self.block)).candidates[0]
        if winner.id != child.id:
            return None
        table = await study.evaluate([child], pool)  # the rest of its row, if the race did not need it
        return child, dict(zip([e.id for e in pool], table.values[0].tolist(), strict=True))


def _mean(scores: Mapping[str, float]) -> float:
    known = [score for score in scores.values() if not math.isnan(score)]
    return sum(known) / max(1, len(known))


def _shown(study: Study, failure: Failure) -> str:
    """Return a failure as the model that writes sees it."""
    example = failure.example
    reply = failure.reply if len(failure.reply) <= _LONGEST_SHOWN else f"{failure.reply[:_LONGEST_SHOWN]} ..."
    asked = render_demo(demonstrate(study.task, example, reply.strip() or "(nothing)"))
    right = [f"Expected: {example.target}"] if example.target is not None else []
    said = [f"What is wrong: {failure.feedback}"] if failure.feedback else []
    return "\n".join([asked, *right, *said])
