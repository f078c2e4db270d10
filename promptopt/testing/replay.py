"""Tests that a seed fixes a run, and that a run can be killed anywhere and repeated for nothing."""

from __future__ import annotations

from pathlib import Path

from promptopt.errors import RunRefused
from promptopt.run import Run
from promptopt.testing.double import Double
from promptopt.testing.kill import Snapshots
from promptopt.testing.process import go_on_elsewhere
from promptopt.testing.subject import Subject
from promptopt.testing.trial import Trial, answered, difference, outcome
from promptopt.types import Request


class ReplayTests(Subject):
    """A run depends on its seed alone, and an ended run goes on where it stopped."""

    def test_same_seed_gives_the_same_run(self, tmp_path: Path) -> None:
        """Require the same requests in the same order, and the same result, run after run."""
        for seed in (0, 1):
            plan = self.plan(seed=seed)  # one instance for both: what it keeps to itself must not matter
            first, second = (
                self.execute(plan, tmp_path / f"{seed}{name}", Double(self.make_task())) for name in "ab"
            )
            sent = [[request.digest for request in trial.double.requests] for trial in (first, second)]
            gap = difference(outcome(first.folder), outcome(second.folder))
            why = "draw only from study.rng, and keep nothing between runs"
            assert not gap, f"seed {seed} run twice differs: {gap}; {why}"
            assert sent[0] == sent[1], f"seed {seed} run twice sends other requests; {why}"

    def test_prints_nothing(self, tmp_path: Path) -> None:
        """Require that the standard streams stay empty."""
        printed = self.run(tmp_path / "run").printed
        assert not printed, f"it prints {printed[:200]!r}; use study.note, which reports can read"

    def test_repeats_a_finished_run_for_nothing(self, tmp_path: Path) -> None:
        """Require that the journal answers every request of a finished run."""
        before = outcome(self.run(tmp_path / "run").folder)
        again = self.run(tmp_path / "run")
        gap = difference(before, outcome(again.folder))
        assert not again.double.requests, f"a finished run, repeated, sends {len(again.double.requests)} requests"
        assert not gap, f"a finished run, repeated, ends otherwise: {gap}"

    def test_killed_anywhere_goes_on_identically(self, tmp_path: Path) -> None:
        """Require the same end from what a kill leaves on disk, and no answer paid twice."""
        whole, snapshots = self._killed(tmp_path)
        for i, folder in enumerate(snapshots.folders):
            kept = answered(folder)
            double = Double(self.make_task(), latency_seed=i)
            when = f"killed after {len(kept)} of {len(whole.digests)} answers and resumed"
            check_resumed(whole, self.run(folder, double=double), kept, when)

    def test_killed_goes_on_identically_in_another_process(self, tmp_path: Path) -> None:
        """Require the same end in a process in which strings hash otherwise."""
        whole, snapshots = self._killed(tmp_path)
        folder = snapshots.folders[len(snapshots.folders) // 2]
        go_on_elsewhere(self.make_task(), self.settings(), folder.resolve())
        gap = difference(outcome(whole.folder), outcome(folder))
        why = "sort what comes out of a set, and never use hash() of a text"
        assert not gap, f"resumed in another process, the run ends otherwise: {gap}; {why}"

    def test_interrupted_goes_on_identically(self, tmp_path: Path) -> None:
        """Require that Ctrl-C ends the search at once, and the same end after it."""
        whole = self.run(tmp_path / "whole")
        for i_request in _places(whole):
            folder, double = tmp_path / str(i_request), Double(self.make_task())

            def stop(run: Run, double: Double = double, i_request: int = i_request) -> None:
                double.on_request = lambda _: run.stop.set() if len(double.requests) >= i_request else None

            trial = self.run(folder, double=double, announce=stop)
            self._check_cut(trial, "interrupted", f"interrupted at request {i_request}")
            kept = answered(folder)
            check_resumed(whole, self.run(folder), kept, f"interrupted at request {i_request} and resumed")

    def test_outage_goes_on_identically(self, tmp_path: Path) -> None:
        """Require that a fatal error ends the search at once, and the same end after it."""
        whole = self.run(tmp_path / "whole")
        for i_request in _places(whole):
            folder, double = tmp_path / str(i_request), Double(self.make_task())

            def refuse(_: Request, double: Double = double, i_request: int = i_request) -> None:
                if len(double.requests) == i_request:  # one is enough: no decision may be taken after it
                    raise RunRefused("the quota is used up")

            double.on_request = refuse
            self._check_cut(self.run(folder, double=double), "failed", f"with an outage at request {i_request}")
            kept = answered(folder)
            check_resumed(whole, self.run(folder), kept, f"resumed after an outage at request {i_request}")

    def _killed(self, tmp_path: Path) -> tuple[Trial, Snapshots]:
        """Return a whole run, and what would have been left of it if it had been killed."""
        snapshots = Snapshots(tmp_path / "killed", at_most=self.n_kills)
        with snapshots.watching():
            whole = self.run(tmp_path / "whole", double=Double(self.make_task(), latency_seed=0))
        self.check_ended(whole, "as usual")
        return whole, snapshots

    def _check_cut(self, trial: Trial, status: str, when: str) -> None:
        found = trial.result.status
        assert found == status, f"{when}, the run ended as {found!r}; catch no error of a budget or a provider"
        has_gone_on = trial.result.reason.startswith("the proof could not be completed")
        assert not has_gone_on, f"{when}, the search ended well; catch no error of a budget or a provider"
        self.check_prompt(trial, trial.best.prompt, when)


def check_resumed(whole: Trial, resumed: Trial, kept: set[str], when: str) -> None:
    """Require that a resumed run ended as the whole one and asked for what was missing only."""
    gap = difference(outcome(whole.folder), outcome(resumed.folder))
    assert not gap, f"{when}, the run ends otherwise: {gap}"
    twice = kept & set(resumed.digests)
    assert not twice, f"{when}, {len(twice)} answers were paid twice"
    asked = kept | set(resumed.digests)
    assert asked == set(whole.digests), f"{when}, the run asks for {len(asked ^ set(whole.digests))} other answers"


def _places(whole: Trial) -> tuple[int, int]:
    """Return two numbers of requests, a third and two thirds through the search."""
    n = len(whole.searched())
    return max(1, n // 3), max(2, 2 * n // 3)
