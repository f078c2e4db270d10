"""The Study: all that a search strategy may touch.

A study is one branch of a run: it has a path, an own random generator, an own numbering of its verbs
(ordinals) and a lease on the budget. `map` makes child studies and is the only concurrency. Thus the
same seed gives the same run, whatever the latencies, and a killed run repeats itself from its journal.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from promptopt import front, judging, label
from promptopt.asking import N_ROUNDS, Cell, RunState, ask_all, note_gaps
from promptopt.contest import Contest, Survivors
from promptopt.embedding import ngram_vectors
from promptopt.errors import (
    BudgetExhausted,
    ContentRefused,
    ContextTooLong,
    Interrupted,
    ProviderError,
    ReplayDiverged,
    TaskError,
    TransientError,
)
from promptopt.evaluation import fill_cells
from promptopt.gate import normal_form, prompt_tokens
from promptopt.gateway import Call
from promptopt.journal import Step
from promptopt.judging import Hearing, Verdict
from promptopt.ledger import Amount, Lease
from promptopt.stats import SAME, Predictive, Race, Rule, block_size, blocks
from promptopt.tape import nearest_difference
from promptopt.task import Task
from promptopt.template import render_inputs, substitute, tagged
from promptopt.tokens import TokenizedPrompt, tokenized
from promptopt.types import Candidate, Demo, Example, Message, Prompt, Role, ScoreTable
from promptopt.vocabulary import task_words, word_list

T = TypeVar("T")
R = TypeVar("R")

# Refusals that a request brings upon itself; a text refused so is left out, all other failures end the run.
_SPOILED = (ContextTooLong, ContentRefused)
# Streams of random numbers that belong to the framework, apart from the strategy's own in `Study.rng`.
_RACE_STREAM = 2**31
# Questions of one judge call: more make long requests, in which verdicts rub off on each other.
MAX_QUESTIONS = 5
# Texts of one embedding call; OpenAI takes 2,048, others less.
MAX_TEXTS = 256


@dataclass(frozen=True)
class SearchSize:
    """How large a search can be, fixed before it starts; what strategies scale to.

    Args:
        n_calls: answers that the search is expected to afford, of all roles.
        most_calls: answers that it may use at most; None = limited by other means.
    """

    n_calls: int
    most_calls: int | None = None


class Study:
    """One branch of a run, with the verbs of a strategy.

    Args:
        state: what all branches share.
        lease: this branch's share of the budget.
        size: how large the search can be.
        path: where this branch stands: (ordinal, item) pairs from the root.
    """

    def __init__(self, state: RunState, lease: Lease, size: SearchSize, path: tuple[int, ...] = ()) -> None:
        self._state = state
        self._lease = lease
        self._path = path
        self._ordinal = 0
        self._n_events = 0
        self._tells_labels = False  # of this branch: if all shared it, timing would decide who is checked
        self.size = size
        self.rng = np.random.default_rng(np.random.SeedSequence(state.seed, spawn_key=path))

    @property
    def task(self) -> Task:
        """The task, without its test split."""
        return self._state.task

    @property
    def initial(self) -> Candidate:
        """The user's prompt as a candidate."""
        return Candidate(self.task.initial)

    @property
    def demands(self) -> str:
        """What every written prompt must keep, in words for the model that writes it."""
        return self._state.gate.demands

    @property
    def remaining_calls(self) -> int:
        """Answers that may still be used, with ratings where a judge scores; readable at the root between maps.

        Where calls have no limit of their own, those of `size.n_calls` that are left. After a raise of the budget,
        as many as before the raise while there are: up to then, the search is the same.
        """
        assert not self._path, "the remaining budget may be read at the root of a run only"
        lease, per_score = self._lease, self.task.calls_per_score
        if not lease.limit.limits_calls:
            return self.size.n_calls - lease.used_calls // per_score
        left = lease.available.calls
        if self.size.most_calls is not None:
            left = max(left, self.size.most_calls - lease.used_calls)
        return left // per_score

    # Candidates -----------------------------------------------------------------------------------

    def candidate(
        self,
        instruction: str,
        demos: Sequence[Demo] = (),
        *,
        parents: Sequence[Candidate] = (),
        operator: str,
        note: str = "",
    ) -> Candidate | None:
        """Return a new candidate, or None if the gate refuses it; the refusal is journaled."""
        prompt = Prompt(normal_form(instruction), tuple(demos))
        reason = self._state.gate.refusal(prompt)
        if reason is not None:
            self.note("candidate refused", reason=reason, operator=operator, instruction=prompt.instruction)
            return None
        return Candidate(prompt, tuple(parent.id for parent in parents), operator, note)

    def propose(self, candidate: Candidate) -> None:
        """Name the best candidate so far: what a budget's end or an interruption returns."""
        proposals = self._state.proposals
        if proposals and proposals[-1].id == candidate.id:
            return
        proposals.append(candidate)
        self._state.meet(candidate)
        scores = self._state.dev_scores(candidate.id)
        dev = sum(scores) / len(scores) if scores else None
        calls = sum(tally.calls for tally in self._state.tallies.values())
        self.note("proposal", candidate=candidate.id, calls=calls, dev=dev, n=len(scores))

    @property
    def race_rule(self) -> Rule | None:
        """The rule of races that the user asks for (`--race`); None = the strategy's own."""
        return self._state.rule

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the user wants weighed: the score, and with `--objectives` also prompt_tokens or cost."""
        return self._state.objectives

    def front(self, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
        """Return those of `candidates` that none of them dominates, best score first; the result lists them.

        They are compared on all dev examples that each of them was scored on; where there is none, they are the
        first of `candidates`. The latest call counts. Free, and callable at the root between maps only.
        """
        assert not self._path, "the front may be named at the root of a run only"
        common = [e for e in self.task.dev if all((c.id, e.id) in self._state.cells for c in candidates)]
        if not common:
            return tuple(candidates[:1])
        losses = self._sizes(candidates, common)
        chosen = [i for i, rank in enumerate(front.ranks(losses)) if rank == 0]
        chosen.sort(key=lambda i: (*np.round(losses[i] / SAME), i))
        found = tuple(candidates[i] for i in chosen)
        self._state.front = (found, tuple(common))
        self.note("front", candidates=[c.id for c in found], n_examples=len(common))
        return found

    def tokens(self, candidate: Candidate) -> int:
        """Estimate the tokens of a candidate's prompt without an example's input."""
        return prompt_tokens(candidate.prompt)

    def scores(self, candidates: Sequence[Candidate], examples: Sequence[Example]) -> ScoreTable:
        """Return the scores known so far, NaN elsewhere; free, and readable at the root between maps only."""
        assert not self._path, "known scores may be read at the root of a run only"
        cells = [self._state.cells.get((c.id, e.id)) for c in candidates for e in examples]
        return _table(tuple(candidates), tuple(examples), cells)

    def note(self, kind: str, **payload: object) -> None:
        """Journal an event of the search, for reports; costs nothing."""
        self._state.journal.add_event(kind, self._path_text, self._n_events, payload)
        self._n_events += 1

    # Verbs that spend -----------------------------------------------------------------------------

    async def generate(self, template: str, role: Role = "optimizer", n: int = 1, **fields: object) -> list[str]:
        """Return `n` texts that a model writes; `{name}` in `template` is replaced literally by a field.

        A text is missing whose request a content filter stops or that is too long: the list is then shorter.

        Raises:
            BudgetExhausted: it does not fit.
            ProviderError: a call kept failing or was refused; the run ends as failed and can be resumed.
        """
        messages = (Message("user", substitute(template, fields)),)
        replies = await self._ask([messages] * n, role)
        return [reply for reply in replies if reply is not None]

    async def write(self, template: str, tag: str, role: Role = "optimizer", **fields: object) -> str | None:
        """Return what a model writes between `<tag>` and `</tag>`; one repair is asked for if it is missing.

        None = there was no such text in either reply: chatter never becomes a prompt.
        """
        asked = (Message("user", substitute(template, fields)),)
        reply = (await self._ask([asked], role))[0]
        if reply is None:
            return None
        found = tagged(reply, tag)
        if found is None:
            plea = f"Your reply holds no text between <{tag}> and </{tag}>. Send it again, between these tags."
            repair = (*asked, Message("assistant", reply), Message("user", plea))
            again = (await self._ask([repair], role))[0]
            found = None if again is None else tagged(again, tag)
            if found is None:
                self.note("unparsed reply", tag=tag, reply=again or "")
        return found

    async def evaluate(self, candidates: Sequence[Candidate], examples: Sequence[Example]) -> ScoreTable:
        """Return the scores of every candidate on every example; cells already known are free.

        Raises:
            BudgetExhausted: they do not all fit; if the number of calls alone shows it, nothing is spent.
        """
        return _table(tuple(candidates), tuple(examples), await self._cells(candidates, examples))

    async def offers_label_logprobs(self) -> bool:
        """Return whether the task model reports log-probabilities that tell the labels apart.

        Asks once, for the initial prompt's cell on the first dev example.
        """
        spec = self._state.models["task"]
        if label.why_never(self.task, spec):
            return False
        cell = (await self._cells([self.initial], self.task.dev[:1]))[0]
        is_offered = cell is not None and cell.cause is None and not label.lack(cell, self.task, spec)
        self._tells_labels = self._tells_labels or is_offered
        return is_offered

    async def label_logprobs(
        self, candidates: Sequence[Candidate], examples: Sequence[Example]
    ) -> NDArray[np.float64]:
        """Return float[C, E, L]: natural log-probabilities of `task.labels`, normalised over the labels.

        They are those of the answer's first token, from the same calls as `evaluate`. A row is NaN where
        the answer is missing or no label is among the reported tokens.

        Raises:
            TaskError: the task has no labels, or none are asked for, or most replies of the first such call do
                not tell them apart.
            BudgetExhausted: as `evaluate`.
        """
        if why := label.why_never(self.task, self._state.models["task"]):
            raise TaskError(why)
        words = self.task.label_words
        cells = await self._cells(candidates, examples)
        self._check_logprobs(cells)
        rows = np.full((len(cells), len(words)), np.nan)
        for row, cell in zip(rows, cells, strict=True):
            if cell is not None and cell.cause is None:
                row[:] = label.label_row(cell.logprobs or (), words, cell.output or "")
        return rows.reshape(len(candidates), len(examples), len(words))

    async def judge(
        self,
        challenger: Candidate,
        incumbent: Candidate,
        examples: Sequence[Example],
        *,
        n_votes: int = 4,
        requirements: str = "",
    ) -> Verdict:
        """Return the judge's votes on whose answers are better; both are evaluated first, known cells free.

        The judge sees both answers to the same questions, at most five questions a call, and nothing of the
        prompts. Half of the votes show the challenger first. A prompt whose request was too long or refused
        loses the question without being judged.

        Args:
            n_votes: even; every vote asks for a verdict on each example.
            requirements: what is asked for; "" = the task's description.

        Raises:
            ConfigError: `n_votes` is odd or below 2.
            BudgetExhausted: it does not fit.
        """
        judging.check_votes(n_votes)
        cells = await self._cells([challenger, incumbent], examples)
        self._state.tried.update({challenger.id, incumbent.id} - {self.initial.id})
        pairs = tuple(zip(cells[: len(examples)], cells[len(examples) :], strict=True))
        questions = tuple(map(self._question, examples))
        wanted = requirements or self.task.description or "right and helpful answers"
        hearing = Hearing(questions, pairs, wanted, n_votes, MAX_QUESTIONS)
        ballots = hearing.ballots()
        return hearing.verdict(await self._ask(ballots, "judge") if ballots else [])

    async def choose(self, finalists: Sequence[Candidate], examples: Sequence[Example] | None = None) -> Candidate:
        """Return the final gate's choice: the best of the finalists and the initial prompt.

        All meet on the same examples. With scores a race keeps one; ties go to the shorter prompt, then to the
        initial one. Without labels the judge compares each finalist with the initial prompt, which stays unless
        one wins.

        Args:
            examples: None = all of dev.
        """
        field = list({candidate.id: candidate for candidate in (self.initial, *finalists)}.values())
        pool = self.task.dev if examples is None else examples
        if self.task.is_scored:
            survivors = await self.race(field, keep=1, examples=pool)
            return survivors.candidates[0]
        rivals = [candidate for candidate in field if candidate.id != self.initial.id]
        verdicts = [await self.judge(rival, self.initial, pool, n_votes=2) for rival in rivals]
        margins = [verdict.wins - verdict.losses for verdict in verdicts]
        best = int(np.argmax(margins)) if margins else 0
        return rivals[best] if margins and margins[best] > 0 else self.initial

    def tokenize(self, text: str) -> tuple[str, ...]:
        """Return pieces that join to `text`: the task model's tokens where litellm knows them, else words."""
        return self._state.tokenizer(text)

    def tokenized(self, prompt: Prompt) -> TokenizedPrompt:
        """Return a prompt as tokens, with placeholders, kept passages and part headings protected."""
        return tokenized(prompt, self.task, self._state.tokenizer)

    def words(self) -> tuple[str, ...]:
        """Return words to build prompts of: of the task's own text, then those of `word_list`, each once."""
        own, listed = task_words(self.task), word_list(self._state.models["task"])
        return tuple(dict.fromkeys((*own, *listed)))

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return float[n, d]: vectors of `texts`, from the embedding endpoint if the run has one.

        Otherwise from character n-grams (scikit-learn), which costs nothing and knows spelling only.

        Raises:
            ConfigError: there is neither an endpoint nor scikit-learn.
            BudgetExhausted: the calls do not fit; each takes up to 256 texts.
        """
        if "embedding" not in self._state.models:
            return ngram_vectors(texts)
        chunks = [texts[i : i + MAX_TEXTS] for i in range(0, len(texts), MAX_TEXTS)]
        replies = await self._ask(
            [tuple(Message("user", text) for text in chunk) for chunk in chunks], "embedding"
        )
        if None in replies:
            raise TaskError("the embedding endpoint refused a batch of words; leave --embedding-model out")
        return np.array([row for reply in replies for row in json.loads(reply or "[]")], dtype=np.float64)

    async def race(
        self,
        candidates: Sequence[Candidate],
        keep: int = 1,
        examples: Sequence[Example] | None = None,
        *,
        rule: Rule | None = None,
        penalties: Sequence[float] | None = None,
        block: int | None = None,
        max_blocks: int | None = None,
        is_shuffled: bool = True,
        drops_remainder: bool = False,
        by_fronts: bool = False,
    ) -> Survivors:
        """Return the best `keep` of `candidates`, spending evaluations only where they can change that.

        All are evaluated on the same examples, block by block in a fresh random order; who cannot be
        among the best any more leaves. Sound at any moment of stopping (see promptopt.stats).

        Args:
            examples: None = all of dev.
            rule: who has to leave; None = `Predictive()`. The user's `--race` goes first.
            penalties: added loss of each candidate, for elimination only.
            block: examples per block; None = chosen from their number.
            max_blocks: None = until all examples are used.
            is_shuffled: False keeps the examples' order in every race.
            drops_remainder: leave out the last, shorter block.
            by_fronts: weigh all `objectives`: a candidate leaves when `keep` others have been shown to dominate
                it, and who is left at the end survives by fronts and crowding distance (promptopt.front).

        Raises:
            BudgetExhausted: not even one block fits.
        """
        ordinal = self._next_ordinal()
        losses = dict(zip((c.id for c in candidates), penalties or [0.0] * len(candidates), strict=True))
        candidates = tuple({candidate.id: candidate for candidate in candidates}.values())
        for candidate in candidates:
            self._state.meet(candidate)
        pool = [e for e in (examples or self.task.dev) if e.id not in self._state.unused_examples]
        if len(candidates) <= keep:
            return Survivors(candidates, (float("nan"),) * len(candidates), 0, is_complete=True)
        if is_shuffled:
            stream = np.random.SeedSequence(self._state.seed, spawn_key=(*self._path, ordinal, _RACE_STREAM))
            pool = [pool[i] for i in np.random.default_rng(stream).permutation(len(pool))]
        slices = blocks(len(pool), block or block_size(len(pool)), drop_remainder=drops_remainder)[:max_blocks]
        race = Race(
            sum(s.stop - s.start for s in slices),
            keep,
            [self.tokens(candidate) for candidate in candidates],
            range(len(candidates)),  # not the numbers of their births, whose order in branches timing decides
            rule=self._state.rule or rule or Predictive(),
            penalties=[losses[candidate.id] for candidate in candidates],
        )
        cut = [pool[s] for s in slices]
        place = f"{self._path_text}:{ordinal}"
        sizes = partial(self._sizes, with_score=False) if by_fronts else None
        contest = Contest(self._state, self._lease, race, candidates, cut, place, self.note, sizes)
        is_complete = await contest.run()
        means = dict(zip(race.alive, race.means, strict=True))
        kept = race.ranking()[:keep]
        if by_fronts:
            ranked = race.ranking()
            rows = self._sizes([candidates[i] for i in ranked], contest.seen)
            kept = tuple(ranked[i] for i in front.survivors(rows, keep))
        return Survivors(
            tuple(candidates[i] for i in kept), tuple(means[i] for i in kept), race.n_seen, is_complete
        )

    async def map(self, function: Callable[[Study, T], Awaitable[R]], items: Iterable[T]) -> list[R]:
        """Return `function(child study, item)` for every item, concurrently; the only concurrency there is.

        All items are awaited even if one fails; then the first error in item order is raised, errors
        that are more than an exhausted budget first.
        """
        ordinal = self._next_ordinal()
        rows = list(items)
        leases = self._lease.split(len(rows)) if rows else []
        paths = [(*self._path, ordinal, i) for i in range(len(rows))]
        branches = [Study(self._state, *given) for given in zip(leases, repeat(self.size), paths, strict=False)]

        async def run(branch: Study, item: T) -> R:
            branch._tells_labels = self._tells_labels
            try:
                return await function(branch, item)
            finally:
                branch._lease.finish()

        results = await asyncio.gather(*map(run, branches, rows), return_exceptions=True)
        self._lease.join()
        self._tells_labels = self._tells_labels or any(branch._tells_labels for branch in branches)
        errors = [result for result in results if isinstance(result, BaseException)]
        errors.sort(key=lambda error: isinstance(error, (BudgetExhausted, Interrupted)))
        if errors:
            raise errors[0]
        return [result for result in results if not isinstance(result, BaseException)]

    # Inside -----------------------------------------------------------------------------------------

    @property
    def _path_text(self) -> str:
        return "/".join(map(str, self._path))

    def _next_ordinal(self) -> int:
        self._ordinal += 1
        return self._ordinal - 1

    async def _ask(self, conversations: Sequence[tuple[Message, ...]], role: Role) -> list[str | None]:
        """Ask each conversation at this place of the run; None = refused for good."""
        ordinal = self._next_ordinal()
        if role not in self._state.models:
            raise TaskError(f"the run has no {role} model; the strategy must name it in `requires`")
        calls = []
        for i, messages in enumerate(conversations):
            place = f"{self._state.seed}/{self._path_text}/{ordinal}/{i}"
            request = self._state.models[role].request(messages, place)
            call = self._state.call(request, role, keeps_request=True)
            self._check_place(Step(self._path_text, ordinal, i), call)
            calls.append(call)
        await self._lease.require(Amount(calls=len({c.key for c in calls if not self._lease.has(c.key)})))
        spot = f"{self._path_text}:{ordinal}"
        for _ in range(N_ROUNDS):
            outcomes = await ask_all(self._state, self._lease, spot, calls)
            failed = [o for o in outcomes if isinstance(o, ProviderError) and not isinstance(o, _SPOILED)]
            if not any(isinstance(error, TransientError) for error in failed):
                break
        if failed:  # going on without it would make the run another one than it is without the failure
            raise failed[0]
        refused = [(c.key, o) for c, o in zip(calls, outcomes, strict=True) if isinstance(o, ProviderError)]
        self._state.fresh_gaps.clear()  # what was written now hangs on the decisions that they led to
        note_gaps(self._state, spot, refused)
        return [None if isinstance(outcome, ProviderError) else outcome.text for outcome in outcomes]

    def _sizes(
        self, candidates: Sequence[Candidate], examples: Sequence[Example], *, with_score: bool = True
    ) -> NDArray[np.float64]:
        return np.array(self._state.losses(candidates, examples, with_score=with_score), dtype=np.float64)

    def _question(self, example: Example) -> str:
        return render_inputs([(column, example.inputs[column]) for column in self.task.shown_columns])

    async def _cells(self, candidates: Sequence[Candidate], examples: Sequence[Example]) -> list[Cell | None]:
        """Return the cells of each candidate in turn on every example; None = missing."""
        place = f"{self._path_text}:{self._next_ordinal()}"
        pairs = [(candidate, example) for candidate in candidates for example in examples]
        return await fill_cells(self._state, self._lease, place, pairs)

    def _check_logprobs(self, cells: Sequence[Cell | None]) -> None:
        """Raise TaskError if most of a branch's first answers do not tell the labels; later ones may not."""
        if not self._tells_labels:
            self._tells_labels = label.check_cells(cells, self.task, self._state.models["task"])

    def _check_place(self, step: Step, call: Call) -> None:
        """Note which request stands at a place; raise ReplayDiverged if the journal holds another."""
        known = self._state.journal.step_digest(step)
        if known is None:
            self._state.journal.add_step(step, call.request.digest)
        elif known != call.request.digest:
            before = self._state.journal.request(bytes.fromhex(known))
            raise ReplayDiverged(
                f"the run asks for something else than its journal at path {step.path or 'root'!r}, ordinal "
                f"{step.ordinal}, item {step.item}: the strategy, the prompt or the data changed since; "
                "start anew in another --out folder",
                difference="" if before is None else nearest_difference(call.request.messages, [before]),
            )


def _table(
    candidates: tuple[Candidate, ...], examples: tuple[Example, ...], flat: list[Cell | None]
) -> ScoreTable:
    n = len(examples)
    rows = [flat[i * n : (i + 1) * n] for i in range(len(candidates))]
    values = np.array([[np.nan if c is None else c.score.value for c in row] for row in rows], dtype=np.float64)
    return ScoreTable(
        candidates,
        examples,
        values.reshape(len(candidates), n),
        outputs=tuple(tuple(None if c is None else c.output for c in row) for row in rows),
        feedback=tuple(tuple(None if c is None else c.score.feedback for c in row) for row in rows),
    )
