"""Tests that a strategy shows examples only where they may be seen."""

from __future__ import annotations

from pathlib import Path

from promptopt.task import Task
from promptopt.template import render_demo
from promptopt.testing.double import Double, role_of
from promptopt.testing.leak import Leaks, texts_of
from promptopt.testing.subject import Subject
from promptopt.testing.trial import Trial
from promptopt.types import Example


class SecrecyTests(Subject):
    """Test examples are never seen; dev examples drive the search, but nobody writes a prompt from them."""

    def test_no_request_shows_a_test_example(self, tmp_path: Path) -> None:
        """Require that no role sees anything of the test split before the proof."""
        for trial, task in self._trials(tmp_path):
            leaks = _leaks(task, task.test, task.train, task.dev)
            for request in trial.searched():
                found = leaks.find("\n\n".join(message.content for message in request.messages))
                assert not found, f"on {task.name!r}, the {role_of(request)} model was shown the test {found}"

    def test_no_candidate_shows_a_dev_example(self, tmp_path: Path) -> None:
        """Require that dev is in no instruction and no demonstration."""
        for trial, task in self._trials(tmp_path):
            leaks = _leaks(task, task.dev, task.train)
            for candidate in trial.candidates():
                shown = map(render_demo, candidate.prompt.demos)
                found = leaks.find("\n\n".join((candidate.prompt.instruction, *shown)))
                what = f"on {task.name!r}, a candidate ({candidate.operator}) shows the dev {found}"
                assert not found, f"{what}; take demonstrations from train, or scores on dev say nothing any more"

    def test_optimizer_model_sees_no_dev_example(self, tmp_path: Path) -> None:
        """Require that the optimizer model sees train only, unless `shows_dev` says otherwise."""
        if self.shows_dev:
            return
        for trial, task in self._trials(tmp_path):
            leaks = _leaks(task, task.dev, task.train)
            for request in trial.searched():
                if role_of(request) != "optimizer":
                    continue
                found = leaks.find("\n\n".join(message.content for message in request.messages))
                why = "show it train only, or set shows_dev = True in the test and tell users"
                assert not found, f"on {task.name!r}, the optimizer model was shown the dev {found}; {why}"

    def _trials(self, folder: Path) -> list[tuple[Trial, Task]]:
        trials = [(self.run(folder / task.name, task=task, double=Double(task)), task) for task in self.tasks()]
        for trial, task in trials:
            self.check_ended(trial, f"on {task.name!r}")
        return trials


def _leaks(task: Task, forbidden: tuple[Example, ...], *public: tuple[Example, ...]) -> Leaks:
    """Return the finder of forbidden examples; public splits, the prompt and the description may be shown."""
    shown = [text for split in public for text in texts_of(split)]
    shown += [task.initial.instruction, task.description, *map(render_demo, task.initial.demos)]
    leaks = Leaks(forbidden, shown)
    assert leaks.n_signs, f"on {task.name!r}, no leak could be found: all its splits say the same"
    return leaks
