"""The doors for Python users, which the command line goes through as well: optimize, evaluate, compare.

They work from scripts, notebooks and running event loops; `aoptimize` is for asynchronous code.
"""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from promptopt import folder, registry, settings_file
from promptopt.config import (
    DATA_OPTIONS,
    Settings,
    load_prompt,
    load_task,
    name_front_matter,
    set_initial,
    task_file,
)
from promptopt.errors import ConfigError, nearest
from promptopt.ledger import Stop
from promptopt.plan import Plan, make_plan
from promptopt.providers import closing
from promptopt.replaying import Replayed, Replaying
from promptopt.report import leave_report
from promptopt.result import Result
from promptopt.run import Run
from promptopt.scoring import Evaluating, Evaluation, Split
from promptopt.tables import Table
from promptopt.task import Task
from promptopt.types import Budget, Metric, Prompt

if TYPE_CHECKING:
    from promptopt.comparing import Comparing
    from promptopt.comparison import CompareResult
    from promptopt.grid import Asked, Blocks


class Executable(Protocol):
    """A run, an evaluation or a check of a judge, which can be asked to stop."""

    @property
    def stop(self) -> Stop:
        """The flag that asks for it."""

    async def execute(self) -> Any:
        """Return the outcome."""


R = TypeVar("R", bound=Executable)


@dataclass(frozen=True)
class ReadTask:
    """A task with the prompt to improve, and where both come from.

    Args:
        notes: what was decided about the data, to show.
        front_matter: of the prompt file.
        source: paths or names of prompt and data, and the data options.
    """

    task: Task
    notes: tuple[str, ...]
    front_matter: str
    source: Mapping[str, Any]


def read_task(
    prompt: str | Path | Prompt,
    task: Task | str | Path | Table,
    seed: int,
    *,
    needs_labels: bool | None = None,
    is_command: bool = False,
    **data_options: Any,
) -> ReadTask:
    """Return the task that prompt and data make.

    Args:
        needs_labels: whether the strategy does; None = either will do.
        is_command: whether the options of the front matter are known already.
        data_options: metric, target, input, images, description, answer_pattern for a task given as data; they
            win over the prompt file's front matter.

    Raises:
        ConfigError: something is wrong with the prompt or the data.
    """
    file = load_prompt(prompt)
    notes: tuple[str, ...] = ()
    given = {key: value for key, value in data_options.items() if value is not None}
    source: dict[str, Any] = {"prompt_file": str(prompt.resolve())} if isinstance(prompt, Path) else {}
    if isinstance(task, Task):
        if given:
            raise ConfigError(f"{', '.join(sorted(given))}: only for data; a Task has its own, set it there")
    else:
        front = {key.replace("-", "_"): value for key, value in file.settings.items()}
        said = {key: value for key, value in front.items() if key in DATA_OPTIONS} | given
        if isinstance(task, str | Path):
            source["data"] = str(Path(task).resolve()) if os.path.exists(task) else str(task)
        source |= said
        if not isinstance(said.get("metric", ""), str):  # no command line could repeat it
            source = {key: value for key, value in source.items() if key not in ("data", "metric")}
        rows = task
        try:
            if "metric" in front and "metric" not in given:
                settings_file.check_no_code("metric", front["metric"], "front matter")
            task, notes = load_task(rows, seed=seed, columns_of=file.prompt, needs_labels=needs_labels, **said)
        except ConfigError as error:
            own = {key: value for key, value in file.settings.items() if key.replace("-", "_") not in given}
            raise ConfigError(name_front_matter(str(error), own, file.front_matter, str(prompt))) from error
        source |= task_file(rows)
    if file.options and not is_command:
        keys = ", ".join(sorted(file.options))
        notes += (f"front matter: {keys} is for the command line; here only arguments count",)
    task = set_initial(task, file, str(prompt) if isinstance(prompt, Path) else None)
    return ReadTask(task, notes, file.front_matter, source)


def prepare(
    prompt: str | Path | Prompt,
    task: Task | str | Path | Table,
    settings: Settings,
    *,
    is_command: bool = False,
    **data_options: Any,
) -> tuple[Plan, str]:
    """Return the plan of a run and the prompt file's front matter; nothing is spent. See `read_task`.

    Raises:
        ConfigError: something is wrong with the prompt, the data or the settings.
    """
    needs_labels: bool | None = None
    if settings.optimizer != "auto":
        requires = registry.optimizer_class(settings.optimizer).requires
        needs_labels = "labels" in requires or (None if "scores" in requires else False)
    read = read_task(prompt, task, settings.seed, needs_labels=needs_labels, is_command=is_command, **data_options)
    return replace(make_plan(read.task, settings, read.notes), source=read.source), read.front_matter


def compared(plan: Plan, config: Path) -> Plan:
    """Return the plan with a note if it is not quite the run that wrote the settings file."""
    if not folder.is_of_another_run(config, plan):
        return plan
    note = f"not the run that wrote {config}: an option, the data, a plug-in or the program differs"
    return replace(plan, notes=(*plan.notes, note))


def plugged_task(name: str) -> Task:
    """Return the task that is a plug-in of that name.

    Raises:
        ConfigError: there is none; data of a replay come from what was recorded.
    """
    from promptopt.tasks import plugged

    found = plugged.find(name)
    if found is None:
        raise ConfigError(
            f"--data {name}: rows come from the recording; here only a task of your own, path.py:Name"
        )
    return found


def replay(
    source: str | Path,
    *,
    prompt: str | Path | Prompt | None = None,
    optimizer: str | None = None,
    metric: str | Metric | None = None,
    api_base: str | None = None,
    task: Task | None = None,
) -> Replayed:
    """Go through a finished run again without any model, and say whether it ends in the identical result.

    Nothing is asked: every answer comes from the run's journal, or from its recording. So do prompt, rows and
    settings; a metric, strategy or function of your own has to be given again.

    Args:
        source: a run folder, or a file that `promptopt record` made of one.
        prompt: the prompt to begin with; None = the recorded one.
        optimizer: the strategy; None = the recorded one.
        metric: the metric; None = the recorded one.
        api_base: the address of the run, where it had a token in it, which is kept nowhere; nothing is sent there.
        task: the task, such as one with a `predict` function; None = the recorded one.

    Raises:
        ConfigError: there is nothing to replay, or code has to be given.
        ReplayDiverged: something is asked that was not recorded; it says where, and how it differs.
    """
    found: Replayed = run_in_thread(
        Replaying(Path(source), prompt=prompt, optimizer=optimizer, metric=metric, api_base=api_base, task=task)
    )
    return found


async def aoptimize(
    prompt: str | Path | Prompt,
    task: Task | str | Path | Table,
    *,
    model: str,
    optimizer: str = "auto",
    budget: Budget | None = None,
    report: bool = True,
    **settings: Any,
) -> Result:
    """Search a better prompt and prove it on unseen data; the asynchronous form of `optimize`."""
    result = await _make_run(prompt, task, model, optimizer, budget, settings).execute()
    if report:
        _leave_report(result)
    return result


def optimize(
    prompt: str | Path | Prompt,
    task: Task | str | Path | Table,
    *,
    model: str,
    optimizer: str = "auto",
    budget: Budget | None = None,
    report: bool = True,
    **settings: Any,
) -> Result:
    """Search a better prompt and prove it on unseen data.

    This calls models and spends up to `budget`. It blocks, also inside a notebook or a running loop; a
    first KeyboardInterrupt ends the run orderly and returns the best so far.

    Args:
        prompt: text in the format of a prompt file, the Path of one, or a Prompt.
        task: a Task, the path of data, the name of a bundled task; or data itself: a DataFrame (pandas, polars),
            a list of dicts, or a dict of such for train, dev and test.
        model: litellm's name of the task model, or `sim`.
        optimizer: name of a strategy; `auto` picks one.
        budget: limits of the whole run, proof included; None = 1,000 calls, or what `auto` says.
        report: write report.html into the run folder at the end, which takes about a second.
        settings: any other field of `promptopt.Settings`, such as `auto="light"` (a budget by name), `seed`,
            `out`, `api_base`, `options={"max_demos": 4}`; for data also `target`, `input`, `images`,
            `description`, and `metric`: a name, or your own `function(reply, example)`.

    Returns:
        The result, which also lies in its `out` folder as result.json, best.md and report.html.

    Raises:
        ConfigError: something is wrong with the input; nothing was spent.
        JournalError: the run folder cannot be used.
    """
    result: Result = run_in_thread(_make_run(prompt, task, model, optimizer, budget, settings))
    if report:
        _leave_report(result)
    return result


def run_in_thread(run: R, watch: Callable[[R], None] | None = None) -> Any:
    """Execute a run on its own event loop in its own thread; `watch` is called every 0.2 s meanwhile.

    The first KeyboardInterrupt asks the run to stop; a second one leaves at once, losing what is in flight.
    """
    outcome: list[Any] = []
    is_over = threading.Event()

    def work() -> None:
        try:
            outcome.append(asyncio.run(closing(run.execute())))
        except BaseException as error:  # noqa: BLE001  # carried to the calling thread and raised there
            outcome.append(error)
        finally:
            is_over.set()

    threading.Thread(target=work, name="promptopt", daemon=True).start()
    while not is_over.is_set():
        try:
            is_over.wait(0.2)  # Thread.join would declare the thread dead when it is interrupted (bpo-45274)
            if watch is not None:
                watch(run)
        except KeyboardInterrupt:
            if run.stop.is_set:
                raise
            run.stop.set()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def split_settings(rest: Mapping[str, Any], caller: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return keyword arguments as fields of Settings, and as options for data.

    Raises:
        ConfigError: one is neither.
    """
    names = set(Settings.__dataclass_fields__)
    for key in rest:
        if key not in names and key not in DATA_OPTIONS:
            raise ConfigError(f"{caller}() has no setting {key!r}: {nearest(key, {*names, *DATA_OPTIONS})}")
    fields = {key: value for key, value in rest.items() if key not in DATA_OPTIONS}
    return fields, {key: rest[key] for key in DATA_OPTIONS if key in rest}


def _make_run(
    prompt: str | Path | Prompt,
    task: Task | str | Path | Table,
    model: str,
    optimizer: str,
    budget: Budget | None,
    rest: Mapping[str, Any],
) -> Run:
    """Return the run that the arguments of `optimize` mean."""
    fields, data_options = split_settings(rest, "optimize")
    fields["options"] = {key: str(value) for key, value in fields.get("options", {}).items()}
    chosen = _settings(budget, model=model, optimizer=optimizer, **fields)
    plan, front_matter = prepare(prompt, task, chosen, **data_options)
    return Run(plan, front_matter=front_matter)


def _leave_report(result: Result | CompareResult) -> None:
    """Write the report of a run or comparison; where that fails, warn."""
    if why := leave_report(result):
        warnings.warn(why, RuntimeWarning, stacklevel=3)


def _settings(budget: Budget | None, **fields: Any) -> Settings:
    """Return the settings that arguments of Python mean."""
    if fields.get("out") is not None:
        fields["out"] = Path(fields["out"])
    return Settings(budget=Budget() if budget is None else budget, **fields)


def prepare_evaluation(
    prompt: str | Path | Prompt,
    task: Task | str | Path | Table,
    settings: Settings,
    split: str = "test",
    n_examples: int | None = None,
    *,
    is_command: bool = False,
    **data_options: Any,
) -> Evaluating:
    """Return an evaluation that is ready to start; nothing is spent.

    Raises:
        ConfigError: something is wrong with the prompt, the data or the settings.
    """
    read = read_task(prompt, task, settings.seed, is_command=is_command, **data_options)
    return Evaluating(read.task, settings, split, n_examples, notes=read.notes)


def evaluate(
    prompt: str | Path | Prompt,
    task: Task | str | Path | Table,
    *,
    model: str,
    split: Split = "test",
    examples: int | None = None,
    budget: Budget | None = None,
    **settings: Any,
) -> Evaluation:
    """Return what a prompt scores on a split, and what it takes; this calls the model.

    It blocks, also inside a notebook or a running loop.

    Args:
        prompt: text in the format of a prompt file, the Path of one, or a Prompt.
        task: a Task, the path of data, the name of a bundled task; or data itself: a DataFrame (pandas, polars),
            a list of dicts, or a dict of such for train, dev and test.
        model: litellm's name of the task model, or `sim`.
        examples: a random sample of so many, by seed; None = all of the split.
        budget: limits; None = none, each example is asked about once.
        settings: fields of `promptopt.Settings` such as `seed`, `out`, `api_base`; for data also `target`,
            `input`, and `metric`: a name, or your own `function(reply, example)`.

    Raises:
        ConfigError: something is wrong with the input; nothing was spent.
        JournalError: the folder cannot be used.
    """
    fields, data_options = split_settings(settings, "evaluate")
    made = _settings(budget, model=model, **fields)
    found: Evaluation = run_in_thread(prepare_evaluation(prompt, task, made, split, examples, **data_options))
    return found


def prepare_comparison(
    prompt: str | Path | Prompt,
    sources: Mapping[str, Task | str | Path | Table],
    asked: Asked,
    *,
    prompts: Mapping[str, str | Path | Prompt] | None = None,
    is_command: bool = False,
    **data_options: Any,
) -> Comparing:
    """Return a comparison that is ready to start; nothing is spent.

    Args:
        prompt: of all data sets that have none of their own.
        sources: the data sets by their names in `asked`.
        prompts: of single data sets, by these names.

    Raises:
        ConfigError: something is wrong with the prompt, the data, a strategy or the settings.
    """
    from promptopt.comparing import Comparing  # statistics and tables that no other door needs

    def read(source: str, seed: int, needs_labels: bool | None) -> ReadTask:
        task = sources[source]
        is_split = isinstance(task, Task) or (isinstance(task, str | Path) and not os.path.isfile(task))
        return read_once(source, 0 if is_split else seed, needs_labels)  # only a single table is split by seed

    @cache
    def read_once(source: str, seed: int, needs_labels: bool | None) -> ReadTask:
        own = (prompts or {}).get(source, prompt)
        return read_task(
            own, sources[source], seed, needs_labels=needs_labels, is_command=is_command, **data_options
        )

    return Comparing(asked, read, out=asked.settings.out)


def compare(
    prompt: str | Path | Prompt,
    data: Sequence[Task | str | Path | Table],
    *,
    model: str,
    optimizers: Sequence[str],
    seeds: int | Sequence[int] = 5,
    budget: Budget | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    prompts: Mapping[str, str | Path | Prompt] | None = None,
    blocks: Blocks = "auto",
    **settings: Any,
) -> CompareResult:
    """Compare search strategies on equal budgets, on one or more data sets, each with several seeds.

    This calls models. Every run may spend up to `budget`, counted as if it ran alone; an answer that several of
    them use is paid once. It blocks, also inside a notebook or a running loop; a first KeyboardInterrupt ends it
    orderly. A run that fails does not lose the others; the same call with the same `out` goes on.

    Args:
        prompt: text in the format of a prompt file, the Path of one, or a Prompt; for all data sets but those in
            `prompts`.
        data: data sets, each as in `optimize`.
        optimizers: names of strategies, at least two.
        seeds: so many from 0 on, or the seeds.
        budget: limits of each run, proof included; None = 1,000 calls, or what `auto` says.
        options: of strategies, by strategy and name.
        prompts: of data sets that need one of their own, by path or name as in `data`.
        blocks: what the tests count as one observation: `data`, `seed` (a data set and a seed), or `auto`.
        settings: other fields of `promptopt.Settings`, such as `out`; for data also `target`, `input`, `metric`.

    Raises:
        ConfigError: something is wrong with the input; nothing was spent.
        JournalError: the folder can no longer be written.
    """
    from promptopt.grid import Asked, seeds_from

    fields, data_options = split_settings(settings, "compare")
    if isinstance(data, str | Path | Task) or isinstance(optimizers, str):
        raise ConfigError("data and optimizers are lists: data=['support'], optimizers=['capo', 'spo']")
    sources = {str(d) if isinstance(d, str | Path) else f"data[{i}]": d for i, d in enumerate(data)}
    if len(sources) < len(data):
        raise ConfigError("a data set stands twice; each cell runs once")
    if lost := [name for name in prompts or {} if name not in sources]:
        raise ConfigError(f"prompts name {lost[0]!r}, which is no data set here: {nearest(lost[0], sources)}")
    asked = Asked(
        data=tuple(sources),
        optimizers=tuple(optimizers),
        seeds=seeds_from(0, seeds) if isinstance(seeds, int) else tuple(seeds),
        settings=_settings(budget, model=model, **fields),
        options={f"{name}.{key}": str(v) for name, own in (options or {}).items() for key, v in own.items()},
        blocks=blocks,
    )
    found: CompareResult = run_in_thread(
        prepare_comparison(prompt, sources, asked, prompts=prompts, **data_options)
    )
    _leave_report(found)
    return found
