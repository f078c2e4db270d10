"""A strategy that does at random what strategies may do: maps in maps, races, texts, evaluations, in any order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from promptopt.study import Study
from promptopt.types import Candidate, Role

NESTED = f"{__file__}:Nested"
_WRITE = "Improve this prompt, way {way}:\n{instruction}\nPut it between <prompt> and </prompt>."
_REASONS = "Say what is wrong with this prompt, way {way}:\n{instruction}"


@dataclass(frozen=True)
class Nested:
    """Draws its steps by seed.

    Args:
        depth: how many maps may stand in each other.
        tree: which steps are drawn.
    """

    depth: int = 3
    tree: int = 0

    source: ClassVar[str] = "tests"
    requires: ClassVar[frozenset[str]] = frozenset({"optimizer model", "labels"})
    when: ClassVar[str] = "in tests"
    usual_calls: ClassVar[str] = "as many as there are"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = MappingProxyType({})

    def minimum_calls(self) -> int:
        """Return the answers below which a search makes no sense."""
        return 12

    def forecast(self, n_calls: int) -> Mapping[Role, int]:
        """Return the expected answers by role."""
        return {"optimizer": n_calls // 5, "task": n_calls - n_calls // 5}

    async def optimize(self, study: Study) -> Candidate:
        """Go on until the budget ends; the best of each round is proposed."""
        study.rng.random(self.tree)  # so that each tree draws other steps
        best = study.initial
        study.propose(best)
        for _ in range(40):
            found = await self._steps(study, best, self.depth)
            pool = [best, *found][:6]
            best = (await study.race(pool, keep=1, max_blocks=3)).candidates[0]
            study.propose(best)
        return best

    async def _steps(self, study: Study, parent: Candidate, depth: int) -> list[Candidate]:
        """Return the prompts that some steps have found, each in a form that the seed draws."""
        found: list[Candidate] = []
        for _ in range(int(study.rng.integers(1, 4))):
            step = study.rng.random()
            if depth and step < 0.45:
                n = int(study.rng.integers(1, 6))
                rows = await study.map(lambda branch, one: self._steps(branch, one, depth - 1), [parent] * n)
                found += [candidate for row in rows for candidate in row]
            elif step < 0.65:
                found += await self._written(study, parent)
            elif step < 0.8:
                await study.evaluate([parent, *found[-2:]], self._sample(study, 5))
            elif step < 0.9 and found:
                kept = await study.race([parent, *found][:5], keep=2, examples=self._sample(study, 9), block=3)
                found = list(kept.candidates)
            else:
                n = int(study.rng.integers(1, 7))
                way = f"{study.rng.random():.6f}"
                await study.generate(_REASONS, n=n, way=way, instruction=parent.prompt.instruction)
        return found

    async def _written(self, study: Study, parent: Candidate) -> list[Candidate]:
        way = f"{study.rng.random():.6f}"
        text = await study.write(_WRITE, "prompt", way=way, instruction=parent.prompt.instruction)
        child = study.candidate(text, parents=[parent], operator="nested") if text else None
        return [] if child is None else [child]

    @staticmethod
    def _sample(study: Study, most: int) -> list:  # type: ignore[type-arg]
        n = int(study.rng.integers(1, most + 1))
        return [study.task.dev[i] for i in study.rng.permutation(len(study.task.dev))[:n]]
