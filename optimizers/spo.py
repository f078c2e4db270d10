"""SPO: self-supervised prompt optimization, which needs no labels.

Xiang et al.: "Self-Supervised Prompt Optimization", 2025, arXiv 2502.06855, algorithm 1.
Hill climbing: a model rewrites the best prompt from the answers that it gets; the new prompt is accepted if a
judge prefers its answers to the same few questions. A run takes k + (rounds - 1)(1 + k + R) = 75 calls, and its
final gate up to 120 more. With fewer calls first the gate shrinks, down to none, then there are fewer rounds.
Larger budgets are used by `n_rounds=none` only: more rounds, and the gate takes at most a third.

Deviations from the paper and its code, all but the last in `preset=paper` too:
- All prompts answer the same questions of train. The code draws anew in each round, so that the judge may be
  shown answers to different questions; and it shows the judge the prompts and who won before.
- Half of the R votes show the new prompt's answers first. A coin for each lets a judge that always says A accept
  with chance .31. A vote names the better answer question by question; a tie of all verdicts rejects.
- An empty, unparseable, over-long or known prompt is not tried and counts as rejected.
- Temperatures are the roles' own: the optimizer model's is 1 (paper: .7); the judge's is the paper's.
- The gate: the last winner meets the initial prompt on dev, since a chain of wins may drift; and `patience`.

On the simulator the gate made no clear difference (docs/benchmarks.md): it is there for models whose judge drifts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from promptopt.demonstration import demonstrate
from promptopt.judging import Verdict, check_votes
from promptopt.option import check_range
from promptopt.study import MAX_QUESTIONS, Study
from promptopt.template import render_demo, substitute
from promptopt.types import Candidate, Example, Role

IMPROVE = """You improve prompts for a language model.
What is asked for: {requirements}

This prompt is the best so far:
<prompt>
{instruction}
</prompt>

With it, the model answers:

{answers}
{rejected}
Look for what these answers lack, and write a better prompt. It must not stay as it is: you may add, change or
remove anything and have the model reason in any way, but make one kind of change only.
{demands}
Reply with three parts. Between <analyse> and </analyse>: what the answers lack, and what would mend it.
Between <modification> and </modification>: your change, in one sentence.
Between <prompt> and </prompt>: the complete new prompt."""

REJECTED = """
These rewritings of it were tried already; the answers became no better. Try another kind of change.

{prompts}
"""

_LEAST_GATE = 10  # examples; fewer tell two prompts apart by chance only


@dataclass(frozen=True)
class Spo:
    """Hill climbing on a judge's verdicts about answers, without labels (SPO, arXiv 2502.06855).

    Args:
        n_rounds: prompts, the initial one among them (paper: 10); None = as many as the budget affords.
        n_samples: questions of train that every prompt answers, the same in all rounds (k; paper: 3).
        n_votes: judge calls on a new prompt for each five questions, half of them in each order (R; paper: 4).
        has_references: show optimizer model and judge the targets of the questions, where there are some.
        word_limit: most words of a new prompt, longer ones are rejected; None = no limit.
        n_remembered: prompts last rejected that the optimizer model is shown; 0 = none (paper).
        n_gate: dev examples on which the last winner meets the initial prompt; 0 = it never does (paper).
        patience: rounds in a row without a prompt to try after which the search ends.
    """

    n_rounds: int | None = 10
    n_samples: int = 3
    n_votes: int = 4
    has_references: bool = False
    word_limit: int | None = None
    n_remembered: int = 0
    n_gate: int = 50
    patience: int = 10

    source: ClassVar[str] = "Xiang et al. 2025, arXiv 2502.06855"
    requires: ClassVar[frozenset[str]] = frozenset({"optimizer model", "judge"})
    usual_calls: ClassVar[str] = "75, and 2 for each example of the final comparison"
    when: ClassVar[str] = "no labels at hand, and a model can tell good answers from bad ones; small budgets"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = MappingProxyType(
        {
            "paper": MappingProxyType(
                {
                    **{"n_rounds": 10, "n_samples": 3, "n_votes": 4},
                    **{"n_remembered": 0, "n_gate": 0, "patience": 10**9},
                }
            )
        }
    )

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work."""
        check_votes(self.n_votes)
        check_range(self, "n_votes", at_least=2)
        check_range(self, "n_rounds", at_least=2)  # the initial prompt is the first
        check_range(self, "n_samples", "word_limit", "patience", at_least=1)
        check_range(self, "n_remembered", "n_gate", at_least=0)

    def minimum_calls(self) -> int:
        """Return the answers below which a search makes no sense: those of a single new prompt."""
        return self._search_calls(2)

    def forecast(self, n_calls: int) -> Mapping[Role, int]:
        """Return the expected answers by role for a search of `n_calls`, as where there are no labels."""
        n_rounds, n_gate = self._sizes(n_calls)
        n_answers = self.n_samples * n_rounds + 2 * n_gate
        n_written = n_rounds - 1
        n_all = self._search_calls(n_rounds) + _gate_calls(n_gate)
        return {"task": n_answers, "optimizer": n_written, "judge": n_all - n_answers - n_written}

    async def optimize(self, study: Study) -> Candidate:
        """Rewrite the best prompt round by round, accept what the judge prefers; return what passes the gate."""
        n_rounds, n_gate = self._sizes(study.size.n_calls)
        questions = _sample(study, study.task.train, self.n_samples)
        gate_examples = _sample(study, study.task.dev, n_gate)
        best = study.initial
        study.propose(best)
        tried, rejected, n_idle = {best.id}, list[Candidate](), 0
        for i_round in range(2, n_rounds + 1):
            challenger = await self._rewrite(study, best, questions, rejected, tried)
            if challenger is None:
                study.note("round", round=i_round, candidate=None, is_accepted=False)
                n_idle += 1
                if n_idle == self.patience:
                    break
                continue
            n_idle = 0
            tried.add(challenger.id)
            verdict = await self._compare(study, challenger, best, questions)
            _note_round(study, i_round, challenger, verdict)
            if verdict.is_won:
                best, rejected = challenger, []
                study.propose(best)
            else:
                rejected.append(challenger)
        if gate_examples:
            best = await study.choose([best], gate_examples)
            study.propose(best)
        return best

    async def _rewrite(
        self,
        study: Study,
        best: Candidate,
        questions: Sequence[Example],
        rejected: Sequence[Candidate],
        tried: set[str],
    ) -> Candidate | None:
        """Return what the optimizer model makes of the best prompt and its answers; None = nothing to try."""
        answers = (await study.evaluate([best], questions)).outputs[0]
        text = await study.write(
            IMPROVE,
            "prompt",
            requirements=_requirements(study),
            instruction=best.prompt.instruction,
            answers="\n\n".join(self._shown(study, *pair) for pair in zip(questions, answers, strict=True)),
            rejected=self._shown_rejected(rejected),
            demands=study.demands + ("" if self.word_limit is None else f" Use at most {self.word_limit} words."),
        )
        if text is None:
            return None
        child = study.candidate(text, best.prompt.demos, parents=[best], operator="rewriting")
        reason = None
        if child is not None and child.id in tried:
            reason = "tried before"
        elif child is not None and self.word_limit is not None and (n := len(text.split())) > self.word_limit:
            reason = f"{n} words, limit {self.word_limit}"
        if reason is not None:
            study.note("candidate refused", reason=reason, operator="rewriting", instruction=text)
        return child if reason is None else None

    async def _compare(
        self, study: Study, challenger: Candidate, best: Candidate, questions: Sequence[Example]
    ) -> Verdict:
        """Return the judge's votes on the answers of both to the same questions."""
        wanted = _requirements(study)
        known = [example for example in questions if self.has_references and example.target is not None]
        if known:
            answered = (render_demo(demonstrate(study.task, e, e.target or "")) for e in known)
            wanted += "\nRight answers, as close as possible in content and form:\n\n" + "\n\n".join(answered)
        return await study.judge(challenger, best, questions, n_votes=self.n_votes, requirements=wanted)

    def _shown(self, study: Study, example: Example, answer: str | None) -> str:
        """Return a question with an answer, and with its target if references are shown."""
        shown = render_demo(demonstrate(study.task, example, answer or "(no answer)"))
        is_referenced = self.has_references and example.target is not None
        return f"{shown}\nRight answer:\n{example.target}" if is_referenced else shown

    def _shown_rejected(self, rejected: Sequence[Candidate]) -> str:
        """Return the prompts last rejected, for the optimizer model; "" = none are to be shown."""
        last = rejected[max(0, len(rejected) - self.n_remembered) :]
        prompts = "\n\n".join(candidate.prompt.instruction for candidate in last)
        return substitute(REJECTED, {"prompts": prompts}) if last else ""

    def _sizes(self, n_calls: int) -> tuple[int, int]:
        """Return rounds and examples of the gate for a search of `n_calls`.

        The gate gets what the wanted rounds leave or, where these are as many as there can be, a third.
        """
        for_gate = n_calls // 3 if self.n_rounds is None else n_calls - self._search_calls(self.n_rounds)
        n_gate = min(self.n_gate, MAX_QUESTIONS * (max(0, for_gate) // _gate_calls(MAX_QUESTIONS)))
        if n_gate < min(self.n_gate, _LEAST_GATE):
            n_gate = 0
        per_round = self._search_calls(2) - self._search_calls(1)
        n_affordable = 1 + max(0, n_calls - _gate_calls(n_gate) - self._search_calls(1)) // per_round
        return min(n_affordable, self.n_rounds or n_affordable), n_gate

    def _search_calls(self, n_rounds: int) -> int:
        """Return the calls of `n_rounds`: the k answers of each prompt, and what writing and judging take."""
        n_judged = self.n_votes * -(-self.n_samples // MAX_QUESTIONS)
        return self.n_samples * n_rounds + (1 + n_judged) * (n_rounds - 1)


def _gate_calls(n_examples: int) -> int:
    """Return the calls of a gate without labels: both prompts answer, and the judge votes in both orders."""
    return 2 * n_examples + 2 * -(-n_examples // MAX_QUESTIONS)


def _requirements(study: Study) -> str:
    return study.task.description or "right and helpful answers"


def _sample(study: Study, examples: Sequence[Example], n: int) -> list[Example]:
    order = study.rng.permutation(len(examples))[:n]
    return [examples[i] for i in order]


def _note_round(study: Study, i_round: int, challenger: Candidate, verdict: Verdict) -> None:
    """Journal a round's verdict; and apart, that no vote of the judge could be read."""
    counts = {"wins": verdict.wins, "losses": verdict.losses, "n_unparsed": verdict.n_unparsed}
    study.note("round", round=i_round, candidate=challenger.id, is_accepted=verdict.is_won, **counts)
    if verdict.n_unparsed and verdict.n_unparsed >= len(verdict.votes):
        study.note("judge unreadable", round=i_round, n_unparsed=verdict.n_unparsed)
