"""The contract catches strategies that break it: each fails the test that is there for it."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from scripted import STRATEGIES, documented_strategy

from promptopt.testing import Leaks, OptimizerContract, Snapshots, difference
from promptopt.testing.trial import time_limit
from promptopt.types import Example

TESTS = [name for name in dir(OptimizerContract) if name.startswith("test_")]
IMPORTS = "from promptopt import Candidate,"
PARENT = "instruction=parent.prompt.instruction,"
BEGINS = "        best = study.initial\n"
LEADS = "best = survivors.candidates[0]\n"
MINIMUM = "return self.n_children + 20 * (self.n_children + 1)"
CHILD = "branch.candidate(text,"
STEPS = "while n_idle < self.patience:"
DEMONSTRATE = {IMPORTS: f"from promptopt.demonstration import demonstrate\n{IMPORTS}"}


class Flaw(NamedTuple):
    """A flaw in the strategy that docs/strategies.md shows.

    Args:
        test: the test of the contract that must fail.
        says: pattern of what it says.
        edits: texts of the strategy, and by what they are replaced.
    """

    test: str
    says: str
    edits: dict[str, str]


FLAWS = {
    "checks an option after calls": Flaw(
        "test_refuses_options_before_it_asks",
        "rate=7.5 was refused after .* calls",
        {
            "    patience: int = 3\n": "    patience: int = 3\n    rate: float = 0.5\n",
            LEADS: f'{LEADS}            check_range(self, "rate", at_most=1)\n',
        },
    ),
    "draws unseeded numbers": Flaw(
        "test_same_seed_gives_the_same_run",
        "draw only from study.rng",
        {
            IMPORTS: f"import random\n{IMPORTS}",
            PARENT: "instruction=f'{parent.prompt.instruction} {random.random()}',",
        },
    ),
    "remembers earlier runs": Flaw(
        "test_same_seed_gives_the_same_run",
        "keep nothing between runs",
        {
            "    presets:": "    memory: ClassVar[list[str]] = []\n    presets:",
            PARENT: "instruction=f'{parent.prompt.instruction} {len(self.memory)}',",
            LEADS: f"{LEADS}            self.memory.append(best.id)\n",
        },
    ),
    "hangs on the order of a set": Flaw(
        "test_killed_goes_on_identically_in_another_process",
        "ReplayDiverged",
        {PARENT: "instruction=f'{parent.prompt.instruction} {set(map(str, range(50)))}',"},
    ),
    "runs tasks of its own": Flaw(
        "test_same_outcome_at_any_concurrency_and_latency",
        "differ: .* Use study.map|order by index",
        {
            IMPORTS: f"import asyncio\n{IMPORTS}",
            "await study.map(rewrite, range(self.n_children))": "await asyncio.gather(*map(twice, range(6)))",
            "            written =": (
                "            async def twice(i):\n"
                "                await study.generate('Write a prompt.' + i * '!')\n"
                "                return await rewrite(study, i)\n\n"
                "            written ="
            ),
        },
    ),
    "goes past the budget": Flaw(
        "test_keeps_every_limit",
        "requests were sent, but the result counts",
        {
            LEADS: f"{LEADS}            state = study._state\n"
            "            asked = state.models['task'].request((Message('user', best.id),))\n"
            "            await state.gateway.answer(state.call(asked, 'task'))\n",
            IMPORTS: f"from promptopt.types import Message\n{IMPORTS}",
        },
    ),
    "understates its minimum": Flaw("test_works_with_its_minimum", "tries no prompt", {MINIMUM: "return 5"}),
    "has no minimum": Flaw("test_refuses_a_budget_below_its_minimum", "makes sense", {MINIMUM: "return 0"}),
    "shows dev to the optimizer model": Flaw(
        "test_optimizer_model_sees_no_dev_example",
        "on 'messages', the optimizer model was shown the dev example",
        {PARENT: "instruction=parent.prompt.instruction + branch.task.dev[0].inputs['input'][:60],"},
    ),
    "shows a target of dev to the optimizer model": Flaw(
        "test_optimizer_model_sees_no_dev_example",
        "on 'numbers', the optimizer model was shown the dev example",
        {PARENT: "instruction=parent.prompt.instruction + ' ' + branch.task.dev[3].target,"},
    ),
    "demonstrates dev": Flaw(
        "test_no_candidate_shows_a_dev_example",
        "a candidate .rewrite. shows the dev example",
        {**DEMONSTRATE, CHILD: f"{CHILD} [demonstrate(branch.task, branch.task.dev[2], 'so')],"},
    ),
    "knows the test split": Flaw(
        "test_no_request_shows_a_test_example",
        "the task model was shown the test example",
        {
            IMPORTS: f"{DEMONSTRATE[IMPORTS]}",
            "import ClassVar\n": "import ClassVar\nfrom promptopt.testing import label_task\n",
            CHILD: f"{CHILD} [demonstrate(branch.task, label_task().test[2], 'so')],",
        },
    ),
    "takes chatter for a prompt": Flaw(
        "test_survives_hostile_optimizer_models",
        "chats .* its words became a prompt",
        {
            "text = await branch.write(": "(text,) = await branch.generate(",
            '                    "prompt",\n': "",
            CHILD: "branch.candidate(parent.prompt.instruction + text,",
        },
    ),
    "returns what it never tried": Flaw(
        "test_returns_no_prompt_that_only_the_optimizer_model_likes",
        "a prompt that answers nothing was returned",
        {LEADS: "best = next(iter(new.values()), best)\n"},
    ),
    "returns what the gate never saw": Flaw(
        "test_proposes_and_returns_what_the_gate_accepts",
        "the gate refuses .placeholders changed",
        {STEPS: "for _ in range(1):", "        return best\n": "        return Candidate(Prompt('Sort it.'))\n"}
        | {IMPORTS: f"from promptopt import Prompt\n{IMPORTS}"},
    ),
    "catches errors": Flaw(
        "test_outage_goes_on_identically",
        "catch no error",
        {
            IMPORTS: f"from promptopt import PromptoptError\n{IMPORTS}",
            "            survivors =": "            try:\n                survivors =",
            LEADS: f"{LEADS}            except PromptoptError:\n                return best\n",
            "            best = survivors": "                best = survivors",
        },
    ),
    "prints": Flaw("test_prints_nothing", "prints 'searching", {BEGINS: f"{BEGINS}        print('searching')\n"}),
    "never ends": Flaw(
        "test_ends_where_all_prompts_are_alike",
        "did not end within 1 s",
        {STEPS: "while True:", "range(self.n_children)": "range(0)"},
    ),
    "has a need that nobody knows": Flaw(
        "test_says_what_it_needs_in_known_words", "magic", {'{"labels", "optimizer model"}': '{"labels", "magic"}'}
    ),
    "has no source": Flaw("test_says_what_it_is", "source is empty", {"an example; no publication": ""}),
    "can be changed": Flaw("test_says_what_it_is", "must be frozen", {"(frozen=True)": ""}),
    "does not describe an option": Flaw(
        "test_describes_its_options",
        "option 'n_shown' needs a line",
        {"    patience: int = 3": "    patience: int = 3\n    n_shown: int = 1"},
    ),
    "has an option that text cannot say": Flaw(
        "test_describes_its_options",
        "--set patience=",
        {"    patience: int = 3": "    patience: bytes = b'3'", '"n_children", "patience"': '"n_children"'},
    ),
    "has a preset of other options": Flaw("test_presets_work", "no options", {'{"n_children": 8}': '{"x": 8}'}),
    "forecasts too much": Flaw("test_forecasts_what_it_asks_for", "above the size", {" - n_written}": "}"}),
    "forecasts too little": Flaw(
        "test_forecasts_what_it_asks_for", "below half", {"n_calls - n_written}": "n_written}"}
    ),
    "asks whom it does not name": Flaw(
        "test_asks_only_the_models_that_it_requires",
        "add 'optimizer model' to `requires`",
        {'{"labels", "optimizer model"}': '{"labels"}'},
    ),
    "names whom it never asks": Flaw(
        "test_asks_only_the_models_that_it_requires",
        "requires 'judge', but asked none",
        {'{"labels", "optimizer model"}': '{"labels", "optimizer model", "judge"}'},
    ),
}


def contract_of(folder: Path, edits: dict[str, str]) -> OptimizerContract:
    """Return the contract of the documented strategy with some of its text replaced."""
    source = documented_strategy()
    for old, new in edits.items():
        assert old in source, old
        source = source.replace(old, new)
    (folder / "own.py").write_text(source, encoding="utf-8")

    class Own(OptimizerContract):
        optimizer = f"{folder / 'own.py'}:Climb"
        budget_calls = 150
        time_limit_s = 1.0 if "while True:" in edits.values() else 60.0

    return Own()


@pytest.mark.parametrize("name", FLAWS)
def test_flaw_fails_its_test(tmp_path: Path, name: str) -> None:
    flaw = FLAWS[name]
    test = getattr(contract_of(tmp_path, flaw.edits), flaw.test)
    needs_folder = "tmp_path" in inspect.signature(test).parameters
    with pytest.raises(AssertionError, match=f"(?s){flaw.says}"):
        test(*([tmp_path / "runs"] if needs_folder else []))


def test_every_test_is_documented() -> None:
    text = STRATEGIES.read_text(encoding="utf-8")
    assert [name for name in TESTS if f"`{name}`" not in text] == []


def test_needs_no_pytest() -> None:
    probe = "import sys; sys.modules['pytest'] = None; import promptopt.testing; print('ok')"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "ok\n"


# Its parts ------------------------------------------------------------------------------------------


def test_snapshots_are_thinned_evenly(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    journal.touch()
    snapshots = Snapshots(tmp_path / "kills", at_most=8)
    for _ in range(100):
        snapshots.take(journal)
    numbers = [int(folder.name.partition("-")[2]) for folder in snapshots.folders]
    assert numbers == [16, 32, 48, 64, 80, 96]
    assert sorted(folder.name for folder in (tmp_path / "kills").iterdir()) == sorted(f"kill-{n}" for n in numbers)


def test_leaks_are_found_by_what_only_the_example_has() -> None:
    secret = Example("s", {"input": "Dear team, the red parcel never came to Graz, sadly."}, "471108")
    leaks = Leaks([secret], ["Dear team, the red parcel never came to Linz. Sadly!"])
    assert "'s'" in leaks.find('They wrote:\n"THE PARCEL   came to Graz" and so on')
    assert "'s'" in leaks.find("The answer is 471108.")
    assert leaks.find("Dear team, the red parcel never came to Linz.") == ""
    assert leaks.find("Linz, Graz, parcel") == ""


def test_leaks_without_own_words_are_found_by_long_runs() -> None:
    secret = Example("s", {"input": "the red parcel never came to the old house"}, "a")
    leaks = Leaks([secret], ["the old parcel never came to a red house"])
    assert "'s'" in leaks.find("So: the red parcel never came to us.")
    assert leaks.find("The old parcel never came to the red house.") == ""


def test_difference_names_the_field() -> None:
    assert difference({"a": 1, "b": [2]}, {"a": 1, "b": [2]}) == ""
    assert difference({"a": 1, "b": 2}, {"a": 1}) == "b is 2 in one and None in the other"


def test_time_limit_leaves_no_trace() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(AssertionError, match="did not end within 60 s"), time_limit(60.0):
        os.kill(os.getpid(), signal.SIGALRM)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
