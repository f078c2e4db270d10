"""Tests that bad models, and tasks on which nothing helps, neither break a run nor make it return garbage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from promptopt import registry
from promptopt.simulator import LANDSCAPES
from promptopt.testing import hostile
from promptopt.testing.double import Double, Habit
from promptopt.testing.subject import Subject
from promptopt.testing.trial import Trial
from promptopt.types import Role


class RobustnessTests(Subject):
    """Whatever models say, a run ends by itself and returns a prompt that is no worse than the initial one."""

    def test_proposes_and_returns_what_the_gate_accepts(self, tmp_path: Path) -> None:
        """Require placeholders, kept passages and a text in all that may be returned."""
        for seed in range(3):
            trial = self.run(tmp_path / str(seed), seed=seed)
            self.check_ended(trial, f"with seed {seed}")
            for candidate in trial.state.proposals:
                self.check_prompt(trial, candidate.prompt, f"with seed {seed}, as the best so far")

    def test_survives_hostile_optimizer_models(self, tmp_path: Path) -> None:
        """Require an orderly end, and no word of a model that writes no prompt in a candidate."""
        self._survive("optimizer", hostile.WRITERS, tmp_path)

    def test_survives_hostile_judges(self, tmp_path: Path) -> None:
        """Require an orderly end with a judge on whose word nothing may be promoted."""
        if "judge" not in registry.uses(self.strategy):
            return
        for what, trial in self._survive("judge", hostile.JUDGES, tmp_path).items():
            is_initial = trial.best.id == trial.run.plan.task.initial.id
            is_judged = not {"labels", "scores"} & self.strategy.requires
            assert is_initial or not is_judged, (
                f"a judge that {what} made it return {trial.best.prompt.instruction!r}"
            )

    def test_returns_no_prompt_that_only_the_optimizer_model_likes(self, tmp_path: Path) -> None:
        """Require that no well-formed prompt wins with which the task model answers nothing."""
        task = self.make_task()
        habits: dict[Role, Habit] = {
            "optimizer": hostile.poisonous(task.initial.instruction),
            "task": hostile.poisoned,
        }
        trial = self.run(tmp_path / "run", double=Double(task, habits))
        self.check_ended(trial, "with prompts that answer nothing")
        is_spoiled = hostile.MARKER in trial.best.prompt.instruction
        assert not is_spoiled, "a prompt that answers nothing was returned; compare with the initial prompt first"

    def test_ends_where_all_prompts_are_alike(self, tmp_path: Path) -> None:
        """Require an end where every answer is wrong, and where every answer is right."""
        for accuracy in (0.0, 1.0):
            flat = replace(LANDSCAPES["null"], floor=accuracy, ceiling=accuracy, chatty=0.0, unruly=0.0)
            trial = self.run(tmp_path / str(accuracy), double=Double(self.make_task(), landscape=flat))
            self.check_ended(trial, f"where every prompt scores {accuracy}")

    def _survive(self, role: Role, habits: Mapping[str, Habit], folder: Path) -> dict[str, Trial]:
        """Run with each habit in a role; require that each run ends, and that nothing of it became a prompt."""
        trials = {}
        for i, (what, habit) in enumerate(habits.items()):
            when = f"with a model in the role of the {role} that {what}"
            trial = trials[what] = self.run(folder / str(i), double=Double(self.make_task(), {role: habit}))
            self.check_ended(trial, when)
            for candidate in trial.candidates():
                shown = (candidate.prompt.instruction, *(demo.output for demo in candidate.prompt.demos))
                is_spoiled = any(hostile.MARKER in text for text in shown)
                assert not is_spoiled, f"{when}, its words became a prompt: {shown}"
        return trials
