"""A strategy that uses the verbs of a study at random, for tests of what holds whatever a strategy does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from promptopt.study import Study
from promptopt.types import Candidate, Role

WANDER = f"{__file__}:Wander"
_ASK = "Write another prompt between <prompt> and </prompt>:\n<prompt>\n{instruction}\n</prompt>"
_VERBS = ("generate", "write", "evaluate", "race", "map", "judge", "propose")


@dataclass(frozen=True)
class Wander:
    """Takes random steps, some of them in branches of branches, until the budget ends or all steps are taken.

    Args:
        n_steps: at the root.
    """

    n_steps: int = 300

    source: ClassVar[str] = "tests"
    requires: ClassVar[frozenset[str]] = frozenset({"labels", "optimizer model", "judge"})
    when: ClassVar[str] = "in tests"
    usual_calls: ClassVar[str] = "any"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = MappingProxyType({})

    def minimum_calls(self) -> int:
        """Return the answers below which a search makes no sense."""
        return 1

    def forecast(self, n_calls: int) -> Mapping[Role, int]:
        """Return the expected answers by role."""
        return {"optimizer": n_calls // 4, "judge": n_calls // 4, "task": n_calls // 2}

    async def optimize(self, study: Study) -> Candidate:
        """Return the last prompt that was met."""
        last = study.initial
        for _ in range(self.n_steps):
            last = await self._step(study, last, 0)
        return last

    async def _step(self, study: Study, last: Candidate, depth: int) -> Candidate:
        verb = _VERBS[int(study.rng.integers(len(_VERBS)))]
        if verb == "generate":
            n = int(study.rng.integers(1, 9))
            await study.generate(_ASK, n=n, instruction=last.prompt.instruction)
        elif verb == "write":
            text = await study.write(_ASK, "prompt", instruction=last.prompt.instruction)
            last = self._made(study, text or "", last)
        elif verb == "map" and depth < 2:
            n = int(study.rng.integers(1, 7))

            async def branch(child: Study, i: int) -> Candidate:
                return await self._walk(child, self._made(study, f"Branch {i}.", last), depth + 1)

            last = (await study.map(branch, range(n)))[-1]
        elif verb == "propose":
            study.propose(last)
        else:
            await self._compare(study, verb, last)
        return last

    async def _walk(self, study: Study, last: Candidate, depth: int) -> Candidate:
        for _ in range(int(study.rng.integers(1, 4))):
            last = await self._step(study, last, depth)
        return last

    async def _compare(self, study: Study, verb: str, last: Candidate) -> None:
        dev = study.task.dev
        examples = [dev[i] for i in study.rng.permutation(len(dev))[: int(study.rng.integers(1, len(dev)))]]
        if verb == "race":
            others = [self._made(study, f"Rival {i}.", last) for i in range(int(study.rng.integers(1, 5)))]
            await study.race([study.initial, last, *others], examples=examples)
        elif verb == "judge":
            await study.judge(last, study.initial, examples, n_votes=2 * int(study.rng.integers(1, 3)))
        else:
            await study.evaluate([study.initial, last], examples)

    def _made(self, study: Study, text: str, last: Candidate) -> Candidate:
        """Return a new prompt with a text and a random number in it, or the last one if the gate refuses it."""
        own = f"{study.initial.prompt.instruction}\n{text[:200]} {study.rng.integers(10**6)}"
        return study.candidate(own, parents=[last], operator="wander") or last
