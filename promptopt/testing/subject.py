"""The strategy that is tested, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from promptopt import registry, template
from promptopt.config import Settings
from promptopt.gate import Gate
from promptopt.plan import Plan, make_plan
from promptopt.run import Run
from promptopt.task import Task
from promptopt.testing.double import Double, by_role
from promptopt.testing.material import label_task, number_task
from promptopt.testing.trial import TIME_LIMIT_S, Trial, execute
from promptopt.types import Budget, Prompt

N_PROOF = 4
_MOST_CALLS = 400
_ENDED = ("completed", "budget_exhausted")


class Subject:
    """What a test class says about the strategy that it tests.

    Attributes:
        optimizer: name of a registered strategy, or `path.py:Name`.
        options: its options, as after `--set`.
        budget_calls: answers of a usual run; None = two and a half times its minimum, or 400 if that is less
            and enough.
        shows_dev: whether it shows dev examples to the optimizer model, and says so to users.
        n_kills: at how many moments a run is killed; at least half as many are tried.
        time_limit_s: seconds after which a run counts as one that never ends.
    """

    optimizer: str = ""
    options: Mapping[str, str] = MappingProxyType({})
    budget_calls: int | None = None
    shows_dev: bool = False
    n_kills: int = 12
    time_limit_s: float = TIME_LIMIT_S

    def make_task(self) -> Task:
        """Return the task to try the strategy on; override it where another is needed."""
        return label_task()

    def tasks(self) -> Iterator[Task]:
        """Yield tasks to look for leaks on; on the second, a target alone tells its example."""
        yield self.make_task()
        if "log-probabilities" not in self.strategy.requires:  # these want a few labels, no numbers
            yield number_task()

    # Running it -----------------------------------------------------------------------------------

    @property
    def strategy(self) -> registry.Optimizer:
        """A fresh instance of the strategy."""
        return registry.make_optimizer(self.optimizer, self.options)[1]

    @property
    def least_calls(self) -> int:
        """The smallest budget of calls that the strategy accepts, the proof's share included."""
        return self.strategy.minimum_calls() + 2 * min(N_PROOF, len(self.make_task().test))

    @property
    def calls(self) -> int:
        """The budget of a usual run."""
        if self.budget_calls is not None:
            return self.budget_calls
        return max(self.least_calls, min(_MOST_CALLS, 5 * self.least_calls // 2))

    def settings(self, **changes: Any) -> Settings:
        """Return the settings of a usual run, but for `changes`."""
        usual: dict[str, Any] = {"budget": Budget(calls=self.calls), "concurrency": 8, "max_tokens": 256}
        chosen = {"optimizer": self.optimizer, "options": dict(self.options), "proof_examples": N_PROOF}
        return Settings("sim", **{**usual, **chosen, **changes})

    def plan(self, task: Task | None = None, **changes: Any) -> Plan:
        """Return the plan of a usual run, but for `changes` of its settings."""
        return plan_for(task or self.make_task(), self.settings(**changes))

    def run(
        self,
        folder: Path,
        *,
        task: Task | None = None,
        double: Double | None = None,
        announce: Callable[[Run], None] | None = None,
        **changes: Any,
    ) -> Trial:
        """Run the strategy in `folder`, or go on with the run there; `changes` are settings."""
        task = task or self.make_task()
        plan = self.plan(task, **changes)
        return self.execute(plan, folder, double or Double(task), announce)

    def execute(
        self, plan: Plan, folder: Path, double: Double, announce: Callable[[Run], None] | None = None
    ) -> Trial:
        """Run `plan` in `folder` with `double` as every model."""
        return execute(plan, folder, double, time_limit_s=self.time_limit_s, announce=announce)

    # What is always wanted --------------------------------------------------------------------------

    def check_ended(self, trial: Trial, when: str) -> None:
        """Require that a run ended as it should, with a prompt that may be used."""
        result = trial.result
        assert result.status in _ENDED, f"{when}, the run ended as {result.status!r}: {result.reason}"
        self.check_prompt(trial, trial.best.prompt, when)

    def check_prompt(self, trial: Trial, prompt: Prompt, when: str) -> None:
        """Require that the gate accepts a prompt, and that nothing of the user's was lost."""
        task = trial.run.plan.task
        reason = Gate(task.without_test(), trial.run.plan.max_prompt_tokens).refusal(prompt)
        text = prompt.instruction
        assert reason is None, f"{when}, a prompt was used that the gate refuses ({reason}): {text!r}"
        initial = task.initial.instruction
        for what, found, wanted in (
            ("placeholders", set(template.placeholders(text, task.columns)), set(task.placeholders)),
            ("kept passages", template.kept(text), template.kept(initial)),
        ):
            assert found == wanted, f"{when}, a prompt has the {what} {found} instead of {wanted}"


def plan_for(task: Task, settings: Settings) -> Plan:
    """Return the plan of a run on doubles."""
    return by_role(make_plan(task, replace(settings, out=None)))
