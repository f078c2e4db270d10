"""How many answers a budget affords, what they take, and what is kept for the proof. Nothing is spent here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from functools import cached_property

from promptopt.config import Settings
from promptopt.gate import prompt_tokens
from promptopt.image import USUAL_TOKENS
from promptopt.ledger import Amount, limit_of
from promptopt.providers import ModelSpec
from promptopt.rating import ANSWER_BYTES_PER_TOKEN, worst_repair, worst_score
from promptopt.registry import Optimizer
from promptopt.stats import smallest_provable_gain
from promptopt.study import MAX_QUESTIONS
from promptopt.task import Task
from promptopt.types import Example, JudgedMetric, Message, Role

PROOF_SHARE = Decimal("0.3")
# The judge compares the two answers to a test input in both orders.
N_PROOF_VOTES = 2
# What a call usually takes, for forecasts only. Measured on the bundled tasks with the simulator (words
# besides the answer: 5 to 20 tokens; demonstrations: none at first, 2.5 on average from 1,500 calls on; where a
# strategy has the option `max_demos`, one for each 100 calls up to it); real models are wordier. Forecasts are
# within a factor of two on these tasks (tests/test_plan.py).
_MOST_DEMOS, _CALLS_PER_DEMO = 2.5, 600
_CALLS_PER_WANTED_DEMO = 100
ANSWER_WORDS = {True: 12, False: 100}
_WRITER_INPUT = 200
_WRITER_WORDS = {True: 40, False: 150}
_JUDGE_INPUT = 150
_JUDGE_WORDS = {True: 12, False: 100}
RATING_WORDS = {True: 12, False: 80}
_THINKING_TOKENS = 1000
_EXPECTED_SECONDS = {True: 0.02, False: 2.0}
_USUAL_CONCURRENCY = 16  # the estimate must not depend on the run's own: it would change the search
MOST_CALLS = 10**7
# A strategy's own text in a request to the optimizer model, for the first such call's worst case.
_WRITER_BYTES = 4000
# The judge's: its form without the task's description, and how many questions a search usually shows it at once.
_JUDGE_BYTES = 1500
_N_MEASURED = 1000
_PRICED_CALLS = 1000  # of a usual search; prices decide on options before its size is known
_JUDGED_QUESTIONS = 3  # SPO's, arXiv 2502.06855


@dataclass(frozen=True)
class Part:
    """What a role is expected to take in a phase of a run.

    Args:
        phase: search, choice (among finalists, on the hold-out) or proof.
        usd: dollars; None = a price is unknown.
    """

    phase: str
    role: Role
    calls: int
    tokens: int
    usd: Decimal | None


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take, and the most that it can.

    Args:
        calls: expected answers of all roles, proof included.
        expected_usd: an estimate; None = a price is unknown.
        worst_usd: a bound; None = a price is unknown, or no limit of calls, tokens or dollars was given.
        worst_tokens: a bound on input and output tokens; None = no limit was given.
        smallest_provable: smallest gain, in [0, 1], that the proof can show; None = none. Where a judge compares:
            the smallest lead, as the share of inputs won minus the share lost.
        n_proof: test examples that the proof is expected to afford; 0 = no proof.
        n_certain: those that its share affords even at worst.
        parts: what is expected, by phase and role.
        seconds_per_call: where time alone ends the search: what a call is guessed to take, 16 at once. Endpoints
            differ by a factor of ten and more, and so may the calls; None = something else ends it.
    """

    calls: int
    expected_usd: Decimal | None
    worst_usd: Decimal | None
    worst_tokens: int | None
    smallest_provable: float | None
    n_proof: int
    n_certain: int
    parts: tuple[Part, ...] = ()
    seconds_per_call: float | None = None


@dataclass(frozen=True)
class Sizing:
    """How many answers a budget affords, and what they take; estimates, besides `worst_task`."""

    task: Task
    settings: Settings
    models: Mapping[Role, ModelSpec]
    optimizer: Optimizer
    max_prompt_tokens: int

    @cached_property
    def worst_task(self) -> Amount:
        """The most that the task model can take for one prompt on one example, at the length limit."""
        n_slots = 2 * max(1, len(self.task.placeholders))  # a prompt may show a column more than once
        text = "x" * (4 * self.max_prompt_tokens + n_slots * self._longest_input)
        spec = self.models["task"]
        request = spec.request((Message("system", text), Message("user", "")))
        images = max((e.images for e in self._examples), key=len)
        one = spec.worst_case(replace(request, images=images) if images else request)
        return one.times(self.task.calls_per_example)

    @cached_property
    def worst_cell(self) -> Amount:
        """The most that one prompt can take on one example, with a rating and its repair where a judge scores."""
        if self.task.judged is None:
            return self.worst_task
        return self.worst_task.plus(worst_score(*self._longest_rated(self.task.judged)))

    def _longest_rated(self, metric: JudgedMetric) -> tuple[JudgedMetric, ModelSpec, Example, int]:
        """Return what the worst case of a rating goes by: a reply of max_tokens to the longest example."""
        longest = max(self._examples, key=lambda e: _n_bytes((*e.inputs.values(), *e.targets)))
        return metric, self.models["judge"], longest, self.models["task"].max_tokens

    @cached_property
    def worst_pair(self) -> Amount:
        """The most that two prompts can take on one test example, a judge's votes or ratings included."""
        two = self.worst_cell.times(2)
        is_judged = not self.task.is_scored and "judge" in self.models
        return two.plus(self._worst_judge(1).times(N_PROOF_VOTES)) if is_judged else two

    @cached_property
    def worst_writer(self) -> Amount:
        """The most that a first call of the optimizer model is likely to hold."""
        text = "x" * (_WRITER_BYTES + 8 * prompt_tokens(self.task.initial))
        return self.models["optimizer"].worst_case(self.models["optimizer"].request((Message("user", text),)))

    def _worst_judge(self, n_questions: int) -> Amount:
        """Return the most that a call of the judge is likely to hold, with two answers to each question."""
        answer = ANSWER_BYTES_PER_TOKEN * self.models["task"].max_tokens
        n_bytes = _JUDGE_BYTES + len(self.task.description.encode("utf-8", "replace"))
        text = "x" * (n_bytes + n_questions * (self._longest_input + 2 * answer))
        return self.models["judge"].worst_case(self.models["judge"].request((Message("user", text),)))

    @cached_property
    def _longest_input(self) -> int:
        """UTF-8 bytes of the inputs of the longest example."""
        return max(_n_bytes(example.inputs.values()) for example in self._examples)

    @property
    def _examples(self) -> tuple[Example, ...]:
        return (*self.task.train, *self.task.dev, *self.task.test)

    @cached_property
    def _means(self) -> tuple[float, float, float]:
        """Mean tokens of the rendered prompt with an example, of an example, and of a target."""
        step = 1 + len(self._examples) // _N_MEASURED  # many: a few long texts may be most of all tokens
        rows = self._examples[::step]
        rendered = sum(len(m.content) for e in rows for m in self.task.render(self.task.initial, e))
        shown = sum(len(e.inputs[column]) for e in rows for column in self.task.shown_columns)
        targets = sum(len(e.target or "") for e in rows)
        rendered += 4 * USUAL_TOKENS * sum(len(e.images) for e in rows)
        return rendered / 4 / len(rows), shown / 4 / len(rows), targets / 4 / len(rows)

    def usual(self, role: Role, n_calls: int, n_questions: int = _JUDGED_QUESTIONS) -> tuple[int, Decimal | None]:
        """Return the tokens and dollars that a call usually takes in a search of `n_calls`.

        Args:
            n_questions: those that a call of the judge shows.
        """
        spec = self.models[role]
        question, example, target = self._means
        answer = target + ANSWER_WORDS[self.models["task"].is_simulated]
        n_demos = self._usual_demos(n_calls) if self.task.is_scored else 0.0
        prompt = prompt_tokens(self.task.initial)
        n_shown: int = getattr(self.optimizer, "show", 0)
        n_in, n_out = {
            "task": (question + n_demos * (example + target + 5), answer),
            "optimizer": (
                _WRITER_INPUT + 2 * prompt + n_shown * (example + answer + target),
                prompt + _WRITER_WORDS[spec.is_simulated],
            ),
            "judge": (_JUDGE_INPUT + n_questions * (example + 2 * answer), _JUDGE_WORDS[spec.is_simulated]),
        }[role]
        n_out = min(spec.max_tokens, n_out + _THINKING_TOKENS * spec.facts.is_reasoning)
        return round(n_in + n_out), spec.price(round(n_in), round(n_out))

    def writing_price(self) -> float | None:
        """Return how many answers of the task model a text of the optimizer model is worth; None = unknown."""
        writer, answer = self.usual("optimizer", _PRICED_CALLS)[1], self.usual("task", _PRICED_CALLS)[1]
        return float(writer / answer) if writer is not None and answer else None

    def _usual_demos(self, n_calls: int) -> float:
        """Return the demonstrations that the prompts of a search usually show."""
        wanted: int | None = getattr(self.optimizer, "max_demos", None)
        if wanted is None:
            return min(_MOST_DEMOS, n_calls / _CALLS_PER_DEMO)
        return min(wanted, n_calls / _CALLS_PER_WANTED_DEMO)

    def _usual_rating(self, n_calls: int) -> tuple[int, Decimal | None]:
        """Return the tokens and dollars that a judge's rating of an answer usually takes."""
        metric, spec = self.task.judged, self.models["judge"]
        assert metric is not None
        form = metric.rating_request("-", self.task.dev[0])
        target = self._means[2]
        answer = target + ANSWER_WORDS[self.models["task"].is_simulated]
        n_in = sum(len(message.content) for message in form) / 4 + answer
        n_out = min(spec.max_tokens, RATING_WORDS[spec.is_simulated] + _THINKING_TOKENS * spec.facts.is_reasoning)
        return round(n_in + n_out), spec.price(round(n_in), round(n_out))

    def ratings(self, by_role: Mapping[Role, int]) -> int:
        """Return the judge's ratings that come with the answers of a search: one for each, or none."""
        return 0 if self.task.judged is None else by_role.get("task", 0)

    def total(self, by_role: Mapping[Role, int], n_calls: int) -> tuple[int, Decimal | None]:
        """Return the tokens and dollars that so many answers of a search usually take, their ratings included."""
        tokens, usd = 0, Decimal(0)
        is_known = True
        rows = [(n, *self.usual(role, n_calls)) for role, n in by_role.items()]
        if n_ratings := self.ratings(by_role):
            rows.append((n_ratings, *self._usual_rating(n_calls)))
        for n, each_tokens, each_usd in rows:
            tokens += n * each_tokens
            usd += n * (each_usd or 0)
            is_known = is_known and each_usd is not None
        return tokens, usd if is_known else None

    def proof(self, limit: Amount) -> tuple[Amount, int]:
        """Return the proof's share of the budget, and how many test examples it affords at worst.

        The share is the worst case of all of them, or of those asked for, at most 30% of each limit.
        """
        wanted, n_test = self.settings.proof_examples, len(self.task.test)
        if n_test == 0 or wanted == 0:
            return Amount(), 0
        budget = limit if wanted is not None else share(limit, PROOF_SHARE)
        whole = self.worst_pair.times(n_test if wanted is None else min(n_test, wanted))
        reserve = whole.within(budget)
        return reserve, self.worst_pair.count_in(reserve)

    def search_calls(self, search: Amount) -> int:
        """Return how many answers the search can be expected to afford; the smallest of all limits.

        Ratings do not count: a strategy plans with answers, and each that is scored brings its rating along.
        """
        low, high = 0, min(search.calls, MOST_CALLS)
        while low < high:  # what a call takes depends on how many there are; together they take ever more
            n = (low + high + 1) // 2
            by_role = self.optimizer.forecast(n)
            tokens, usd = self.total(by_role, n)
            fits = tokens <= search.tokens and (usd is None or usd <= search.usd)
            fits = fits and n + self.ratings(by_role) <= search.calls
            low, high = (n, high) if fits else (low, n - 1)
        n = low
        return n if self._calls_in_time is None else min(n, self._calls_in_time)

    @property
    def _seconds_per_call(self) -> float:
        return _EXPECTED_SECONDS[self.models["task"].is_simulated]

    @property
    def _calls_in_time(self) -> int | None:
        """A guess of how many answers the search gets in its time; None = its time is not limited."""
        seconds = self.settings.budget.seconds
        if seconds is None:
            return None
        by_time = int(seconds * float(1 - PROOF_SHARE) * _USUAL_CONCURRENCY / self._seconds_per_call)
        return max(by_time, self.optimizer.minimum_calls())  # a guess of speed refuses no run

    def can_search(self, search: Amount) -> bool:
        """Return whether the search can start: its first call fits, and enough of them are affordable."""
        first = self.worst_writer if "optimizer model" in self.optimizer.requires else self.worst_cell
        return first.fits(search) and self.search_calls(search) >= self.optimizer.minimum_calls()

    def least_budget(self) -> dict[str, str]:
        """Return for calls, tokens and usd the least limit that works if it is the only one."""
        units = {"calls": Decimal(1), "tokens": Decimal(1000), "usd": Decimal("0.0001")}
        return {key: f"{self._least(key, unit):f}" for key, unit in units.items()}

    def _least(self, key: str, unit: Decimal) -> Decimal:
        def works(n: int) -> bool:
            amount = n * unit
            counts = {name: int(amount) if name == key else None for name in ("calls", "tokens")}
            limit = limit_of(amount if key == "usd" else None, counts["calls"], counts["tokens"])
            return self.can_search(limit.minus(self.proof(limit)[0]))

        low, high = 0, 1
        while not works(high) and high < 2**50:
            low, high = high, 2 * high
        while high - low > max(1, high // 100 if key != "calls" else 1):
            middle = (low + high) // 2
            low, high = (low, middle) if works(middle) else (middle, high)
        while not works(high):  # rounding of the proof's share makes small dents
            high += 1
        return (high * unit).quantize(unit, ROUND_UP)

    def _usual_pair(self, n_calls: int) -> tuple[Amount, Decimal | None]:
        """Return what the proof usually takes for one test example; the dollars apart, None = unknown."""
        tokens, usd = self.usual("task", n_calls)
        n = 2 * self.task.calls_per_example
        pair, known = Amount(n, n * tokens, n * (usd or Decimal(0))), usd is not None
        if self.task.judged is not None:
            tokens, usd = self._usual_rating(n_calls)
            known = known and usd is not None
            pair = pair.plus(Amount(1, tokens, usd or Decimal(0)).times(2))
        if not self.task.is_scored:
            tokens, usd = self.usual("judge", n_calls, n_questions=1)
            known = known and usd is not None
            pair = pair.plus(Amount(1, tokens, usd or Decimal(0)).times(N_PROOF_VOTES))
        return pair, pair.usd if known else None

    def forecast(self, limit: Amount, search_calls: int, n_test: tuple[int, int], n_gate: int) -> Forecast:
        """Return what the whole run is expected to take, and its bound.

        Args:
            n_test: test examples that the proof is certain of, and those that it may add.
            n_gate: answers of the task model that choosing on the hold-out takes.
        """
        n_certain, n_spare = n_test
        searching = self.optimizer.forecast(search_calls)
        by_role = {**searching, "task": searching.get("task", 0) + n_gate}
        n_calls = sum(by_role.values())  # fewer than it might take, where a search ends by itself
        search_tokens, search_usd = self.total(by_role, n_calls)
        n_answers = n_calls + self.ratings(by_role)
        pair, pair_usd = Amount(), Decimal(0) if search_usd is not None else None
        n_proof = 0
        if n_certain:
            pair, pair_usd = self._usual_pair(n_calls)
            left = limit.minus(Amount(n_answers, search_tokens, search_usd or Decimal(0)))
            n_usual = max(pair.count_in(share(limit, PROOF_SHARE)), pair.count_in(left))
            n_proof = max(n_certain, min(n_certain + n_spare, n_usual))
        expected = None if search_usd is None or pair_usd is None else search_usd + n_proof * pair_usd
        worst_tokens, worst_usd = self._bound(limit)
        if expected is not None and worst_usd is not None:
            expected = min(expected, worst_usd)
        provable = smallest_provable_gain(n_proof)
        n_all = n_answers + n_proof * pair.calls
        shares: dict[tuple[str, Role], int] = {("search", role): n for role, n in searching.items()}
        shares[("choice", "task")] = n_gate
        shares[("proof", "task")] = n_proof * min(pair.calls, 2 * self.task.calls_per_example)
        n_votes = n_proof * pair.calls - shares["proof", "task"]
        shares[("proof", "judge")] = n_votes if self.task.judged is None else 0
        parts = [self._part(*key, n, n_calls) for key, n in shares.items() if n > 0]
        if self.task.judged is not None:
            rated = {"search": self.ratings(searching), "choice": n_gate, "proof": n_votes}
            parts += [_part(phase, "judge", n, self._usual_rating(n_calls)) for phase, n in rated.items() if n > 0]
        is_timed = search_calls + n_gate == self._calls_in_time and sum(searching.values()) >= search_calls // 2
        guess_s = self._seconds_per_call if is_timed else None
        known = (n_all, expected, worst_usd, worst_tokens, provable, n_proof, n_certain)
        return Forecast(*known, _merged(parts), guess_s)

    def _part(self, phase: str, role: Role, n: int, n_calls: int) -> Part:
        each = self.usual(role, n_calls, n_questions=1 if phase == "proof" else _JUDGED_QUESTIONS)
        return _part(phase, role, n, each)

    def _bound(self, limit: Amount) -> tuple[int | None, Decimal | None]:
        """Return the most tokens and dollars that the limits let the run take; None = no bound."""
        writer = "x" * (_WRITER_BYTES + 12 * self.max_prompt_tokens)
        longest = self.models["optimizer"].request((Message("user", writer),))
        worst = [self.worst_task, self.models["optimizer"].worst_case(longest)]
        if "judge" in self.models:
            worst.append(self._worst_judge(MAX_QUESTIONS))
        if self.task.judged is not None:
            worst.append(worst_repair(*self._longest_rated(self.task.judged)))
        endless = Amount.endless()
        tokens = [limit.tokens] if limit.tokens < endless.tokens else []
        dollars = [limit.usd] if limit.usd.is_finite() else []
        if limit.calls < endless.calls:
            tokens.append(limit.calls * max(each.tokens for each in worst))
            dollars.append(limit.calls * max(each.usd for each in worst))
        specs = self.models.values()
        if limit.tokens < endless.tokens:
            dollars.append(limit.tokens * max(spec.price_out or spec.price_in or Decimal(0) for spec in specs))
        is_priced = all(spec.price_in is not None for spec in specs)
        if all(spec.is_free for spec in specs):
            dollars.append(Decimal(0))
        return min(tokens, default=None), min(dollars, default=None) if is_priced else None


def _part(phase: str, role: Role, n: int, each: tuple[int, Decimal | None]) -> Part:
    tokens, usd = each
    return Part(phase, role, n, n * tokens, None if usd is None else n * usd)


def _merged(parts: list[Part]) -> tuple[Part, ...]:
    """Return the parts with those of one phase and role added up: a judge may vote and rate."""
    merged: dict[tuple[str, Role], Part] = {}
    for part in parts:
        key = (part.phase, part.role)
        if (known := merged.get(key)) is not None:
            usd = None if known.usd is None or part.usd is None else known.usd + part.usd
            part = Part(*key, known.calls + part.calls, known.tokens + part.tokens, usd)
        merged[key] = part
    return tuple(merged.values())


def _n_bytes(texts: Iterable[str]) -> int:
    return sum(len(text.encode("utf-8", "replace")) for text in texts)


def share(limit: Amount, part: Decimal) -> Amount:
    """Return a part of each limit, rounded down."""
    usd = limit.usd if limit.usd.is_infinite() else (limit.usd * part).quantize(Decimal("1e-9"), ROUND_DOWN)
    return Amount(int(limit.calls * part), int(limit.tokens * part), usd)
