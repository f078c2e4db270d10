"""Random search: the control that every strategy must beat.

Independent variations of the initial prompt with random demonstrations, each evaluated on the same dev
examples; the best mean wins. No selection pressure, no feedback, no racing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from promptopt.demonstration import demonstrate, plain_output
from promptopt.option import check_range
from promptopt.study import Study
from promptopt.types import Candidate, Role, ScoreTable

VARY = """You write instructions for a language model.
Task: {description}

Here is an instruction for this task:
<prompt>
{instruction}
</prompt>

Write another instruction for the same task that might work better.
{demands}
Put the instruction between <prompt> and </prompt>."""


@dataclass(frozen=True)
class RandomSearch:
    """Random variations of the initial prompt, each evaluated alike: the control for comparisons.

    Args:
        max_shots: most demonstrations of a prompt, drawn from train with their targets.
        n_dev: dev examples that each candidate is evaluated on; None = scaled to the budget.
        batch_size: candidates written and evaluated at a time; changes nothing but speed.
        patience: batches without a new prompt after which the search ends.
    """

    max_shots: int = 5
    n_dev: int | None = None
    batch_size: int = 2
    patience: int = 5

    source: ClassVar[str] = "the usual control; no publication"
    requires: ClassVar[frozenset[str]] = frozenset({"labels", "optimizer model"})
    usual_calls: ClassVar[str] = "as many as there are"
    when: ClassVar[str] = "as a control in comparisons; not to find good prompts"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = MappingProxyType({})

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work."""
        check_range(self, "n_dev", "batch_size", "patience", at_least=1)
        check_range(self, "max_shots", at_least=0)

    def minimum_calls(self) -> int:
        """Return the answers below which a search makes no sense: the initial prompt and two others."""
        return 2 + 3 * min(self._n_dev(1), 20)

    def forecast(self, n_calls: int) -> Mapping[Role, int]:
        """Return the expected answers by role for a search of `n_calls`."""
        n_written = n_calls // (self._n_dev(n_calls) + 1)
        return {"optimizer": n_written, "task": n_calls - n_written}

    async def optimize(self, study: Study) -> Candidate:
        """Evaluate random variations until the budget ends; return the best of all."""
        order = study.rng.permutation(len(study.task.dev))
        dev = [study.task.dev[i] for i in order[: self._n_dev(study.size.n_calls)]]
        best = study.initial
        study.propose(best)
        await study.evaluate([best], dev)
        seen, n_idle = {best.id}, 0
        while n_idle < self.patience:
            written = await study.map(self._variation, range(self.batch_size))
            new = {child.id: child for child in written if child is not None and child.id not in seen}
            seen.update(new)
            n_idle = 0 if new else n_idle + 1
            for child in new.values():
                await study.evaluate([child], dev)
                if is_better(study.scores([best, child], dev)):
                    best = child
                    study.propose(best)
        return best

    def _n_dev(self, n_calls: int) -> int:
        return self.n_dev or max(20, round(math.sqrt(n_calls)))

    async def _variation(self, study: Study, _: int) -> Candidate | None:
        text = await study.write(
            VARY,
            "prompt",
            description=study.task.description or "see the instruction",
            instruction=study.initial.prompt.instruction,
            demands=study.demands,
        )
        if text is None:
            return None
        n_shots = int(study.rng.integers(0, self.max_shots + 1))
        rows = [study.task.train[i] for i in study.rng.permutation(len(study.task.train))[:n_shots]]
        shots = [demonstrate(study.task, row, plain_output(text, row)) for row in rows]
        return study.candidate(text, shots, parents=[study.initial], operator="variation")


def is_better(table: ScoreTable) -> bool:
    """Return whether the second candidate has the higher mean on the examples that both completed."""
    common = ~np.isnan(table.values).any(axis=0)
    return bool(common.any() and table.values[1][common].sum() > table.values[0][common].sum())
