"""The pytest plug-in, as tests of a user's pipeline see it: recorded once, then played, with nothing live."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from loopback import Loopback, chat, serve

import promptopt
from promptopt.testing import label_task

PIPELINE = """
    import sys
    import promptopt

    ROWS = [{{"input": f"thing {{i}}", "target": ("red", "blue")[i % 2]}} for i in range(60)]

    def test_scores(promptopt_recording):
        found = promptopt.evaluate("{prompt}", ROWS, {model}, examples=8)
        print("live:", len(promptopt_recording.taped), "litellm:", "litellm" in sys.modules)
        assert found.score.n == {n}
"""


@pytest.fixture
def server() -> Iterator[Loopback]:
    """Yield an endpoint that always says red."""
    with serve(lambda body: chat("red")) as loopback:
        yield loopback


@dataclass(frozen=True)
class Project:
    """A user's project, tested in a process of its own, without a key."""

    path: Path

    def test(self, *options: str) -> tuple[dict[str, int], str]:
        """Return how its tests ended, and what was printed."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "OPENAI"))}
        plain = ("-q", "-rP", "-p", "no:cacheprovider", "-p", "no:xdist")
        command = [sys.executable, "-m", "pytest", *plain, *options]
        done = subprocess.run(command, cwd=self.path, env=kept, capture_output=True, text=True, timeout=120)
        counts = re.findall(r"(\d+) (passed|failed|error)", done.stdout.rstrip().rpartition("\n")[2])
        return {kind: int(n) for n, kind in counts}, done.stdout

    def write(self, source: str) -> None:
        """Write its only test file."""
        (self.path / "test_it.py").write_text(textwrap.dedent(source))


@pytest.fixture
def user(tmp_path: Path) -> Project:
    """Return a new project."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return Project(tmp_path)


def n_live(outcome: tuple[dict[str, int], str]) -> int:
    """Return how many calls of the user's test were live."""
    found = re.search(r"^live: (\d+)", outcome[1], re.MULTILINE)
    assert found is not None, outcome[1]
    return int(found[1])


def write(user: Project, prompt: str = "Name it.", n: int = 8, model: str = 'model="sim"') -> None:
    user.write(PIPELINE.format(prompt=prompt, n=n, model=model))


def recordings(user: Project) -> list[Path]:
    return sorted(user.path.glob("recordings/*/*.jsonl"))


def test_records_once_and_then_plays_without_litellm(user: Project, server: Loopback) -> None:
    write(user, model=f'model="my-model", api_base="{server.url}"')
    assert user.test("--promptopt-record=new")[0] == {"passed": 1}
    assert len(server.bodies) == 8
    (path,) = recordings(user)
    assert path.name == "test_scores.jsonl"
    before = path.read_bytes()
    counts, said = user.test()
    assert counts == {"passed": 1}
    assert "live: 0 litellm: False" in said
    assert len(server.bodies) == 8, "nothing was asked again"
    assert path.read_bytes() == before


def test_each_mode_asks_for_what_it_says(user: Project) -> None:
    write(user)
    assert n_live(user.test("--promptopt-record=new")) == 8
    assert n_live(user.test("--promptopt-record=new")) == 0
    assert n_live(user.test("--promptopt-record=none")) == 0
    assert n_live(user.test("--promptopt-record=all")) == 8


def test_a_call_that_is_not_recorded_fails_before_it_is_made(user: Project) -> None:
    write(user)
    counts, said = user.test()
    assert counts == {"failed": 1}
    assert re.search("ReplayDiverged.*not there yet.*--promptopt-record=new .*::test_scores", said), said
    assert recordings(user) == []


def test_a_changed_prompt_fails_with_the_difference(user: Project) -> None:
    write(user)
    assert user.test("--promptopt-record=new")[0] == {"passed": 1}
    write(user, prompt="Say its colour.")
    counts, said = user.test()
    assert counts == {"failed": 1}
    assert re.search(r"ReplayDiverged.*--- recorded.*-Name it\..*\+Say its colour\.", said, re.DOTALL), said
    assert n_live(user.test("--promptopt-record=new")) == 8
    assert "Name it." in recordings(user)[0].read_text(), "new ones are added"
    assert user.test("--promptopt-record=all")[0] == {"passed": 1}
    assert "Name it." not in recordings(user)[0].read_text()


def test_a_failed_test_keeps_what_was_paid(user: Project) -> None:
    write(user)
    assert user.test("--promptopt-record=new")[0] == {"passed": 1}
    write(user, prompt="Say its colour.", n=9)
    assert user.test("--promptopt-record=all")[0] == {"failed": 1}
    kept = recordings(user)[0].read_text()
    assert "Name it." in kept
    assert "Say its colour." in kept


def test_a_run_recorded_by_the_command_is_played(user: Project, tmp_path: Path) -> None:
    task = label_task()
    made = promptopt.optimize(
        task.initial,
        task,
        model="sim",
        budget=promptopt.Budget(calls=150),
        proof_examples=5,
        out=tmp_path / "run",
    )
    from promptopt import recording

    recording.write(recording.of_run(tmp_path / "run"), user.path / "kept" / "run.jsonl")
    shutil.rmtree(tmp_path / "run")
    user.write(
        f"""
        import promptopt
        import pytest
        from promptopt.testing import label_task

        @pytest.mark.promptopt_recording("kept/run.jsonl")
        def test_improves(promptopt_recording):
            task = label_task()
            budget = promptopt.Budget(calls=150)
            made = promptopt.optimize(task.initial, task, model="sim", budget=budget, proof_examples=5)
            assert made.spend.calls == len(promptopt_recording.played) == {made.spend.calls}
        """
    )
    assert user.test()[0] == {"passed": 1}


def test_parametrized_tests_and_classes_have_recordings_of_their_own(user: Project) -> None:
    (user.path / "pytest.ini").write_text("[pytest]\npromptopt_recordings = taped\n")
    user.write(
        """
        import promptopt
        import pytest

        ROWS = [{"input": f"thing {i}", "target": ("red", "blue")[i % 2]} for i in range(60)]

        class TestScores:
            @pytest.mark.parametrize("prompt", ["../../name it", "say it"])
            def test_both(self, prompt, promptopt_recording):
                promptopt.evaluate(prompt, ROWS, model="sim", examples=2)
        """
    )
    assert user.test("--promptopt-record=new")[0] == {"passed": 2}
    names = [path.name for path in sorted(user.path.glob("taped/*/*.jsonl"))]
    assert names == ["TestScores.test_both-..-..-name-it.jsonl", "TestScores.test_both-say-it.jsonl"]
    assert user.test()[0] == {"passed": 2}


def test_a_damaged_recording_is_one_clear_error(user: Project) -> None:
    write(user)
    assert user.test("--promptopt-record=new")[0] == {"passed": 1}
    path = recordings(user)[0]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[-1]["answers"]["text"] = 5
    path.write_text("\n".join(map(json.dumps, lines)))
    counts, said = user.test()
    assert counts == {"error": 1}
    assert re.search(r"ConfigError.*test_scores\.jsonl:\d+: the recording's answers hold the text 5", said), said
