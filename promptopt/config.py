"""What a user asks for, read and checked: the prompt, the data, the metric, the settings of a run."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from promptopt import bound, data, named_budget, promptfile, template
from promptopt.address import check_address
from promptopt.decoding import decode
from promptopt.errors import ConfigError, nearest
from promptopt.front import read_objectives
from promptopt.gate import normal_form, unfit
from promptopt.ledger import Amount, limit_of
from promptopt.secret import masked
from promptopt.tables import Table
from promptopt.task import UNSCORED, Task
from promptopt.tasks.function_metric import given
from promptopt.types import Budget, Example, Metric, Prompt

DEFAULT_CALLS = 1000
# kind:FILE, FILE:attribute, or a name
_FILE_PLUGIN = re.compile(r"((?:judge|json-schema):)?(.*?)(:\w+)?", re.DOTALL)
# Parts of a run's configuration that are digests, which mean nothing to a reader.
_DIGESTED = ("data", "prompt", "metric file", "optimizer file", "task file")
DATA_OPTIONS = ("metric", "target", "input", "images", "description", "answer_pattern")


@dataclass(frozen=True)
class Settings:
    """The settings of a run besides prompt and task.

    Args:
        model: litellm's name of the task model, or `sim`.
        optimizer: name of the strategy, `auto`, or `path.py:Name`.
        options: options of the strategy, as text.
        budget: limits of the whole run; without any, 1,000 calls.
        auto: a budget by name (light, medium, heavy) in place of `budget.calls`; None = none.
        optimizer_model: None = the task model.
        judge_model: None = the task model.
        embedding_model: for strategies that compare words; None = character n-grams, which cost nothing.
        api_base: address of an OpenAI-compatible server, for every role whose model is not `sim`.
        price_in: dollars per million input tokens, where no list has the price, or to override it for
            the task model; None = the list.
        price_out: the same for output tokens.
        proof_examples: test examples for the proof; 0 = no proof, None = all that its share affords.
        seed: random seed of the whole run.
        concurrency: calls in flight at most; changes nothing but speed.
        rpm: calls a minute at most, of each endpoint; None = as many as it takes.
        tpm: tokens a minute at most, of each endpoint; None = as many as it takes.
        max_tokens: output tokens of an answer of the task model; None = 1,024, 8,192 if it reasons.
        model_options: by role (task, optimizer, judge, embedding) and name: temperature, max_tokens, timeout_s,
            api_base, price_in, price_out, or any option of the provider, such as reasoning_effort.
        max_prompt_tokens: longest prompt; None = 2,000 or four times the initial prompt.
        race: rule of every race of the run: predictive, betting, paired-t or halving; None = the strategy's own.
        objectives: names of what the search weighs, such as score,prompt_tokens or score,cost, as text or a
            sequence; None = the score alone. Strategies that can then keep a front of prompts.
        probe: first ask each model once whether it takes its options; the calls count.
        out: folder of the run; None = a new one below `runs/`.
    """

    model: str
    optimizer: str = "auto"
    options: Mapping[str, str] = field(default_factory=dict)
    budget: Budget = Budget()
    auto: str | None = None
    optimizer_model: str | None = None
    judge_model: str | None = None
    embedding_model: str | None = None
    api_base: str | None = None
    price_in: float | Decimal | None = None
    price_out: float | Decimal | None = None
    proof_examples: int | None = None
    seed: int = 0
    concurrency: int = 16
    rpm: int | None = None
    tpm: int | None = None
    max_tokens: int | None = None
    model_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    max_prompt_tokens: int | None = None
    race: str | None = None
    probe: bool = False
    objectives: str | Sequence[str] | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        """Refuse values that make no sense, before anything is spent."""
        budget = self.budget
        if not isinstance(budget, Budget):
            raise ConfigError(f"budget is {budget!r}; write Budget(calls=200)")
        for name in ("model", "optimizer", "optimizer_model", "judge_model", "embedding_model", "api_base"):
            value = getattr(self, name)
            if not isinstance(value, str) and (value is not None or name in ("model", "optimizer")):
                raise ConfigError(
                    f"{name} is {value!r}; write its name as text, such as 'sim' or 'openai/gpt-5-mini'"
                )
        counts = {
            "--concurrency": (self.concurrency, 1, bound.MOST_CONCURRENCY),
            "--rpm": (self.rpm, 1, bound.MOST_COUNT),
            "--tpm": (self.tpm, 1, bound.MOST_COUNT),
            "--max-tokens": (self.max_tokens, 1, bound.MOST_LENGTH),
            "--max-prompt-tokens": (self.max_prompt_tokens, 1, bound.MOST_LENGTH),
            "--budget-calls": (budget.calls, 1, bound.MOST_COUNT),
            "--budget-tokens": (budget.tokens, 1, bound.MOST_COUNT),
            "--proof-examples": (self.proof_examples, 0, bound.MOST_COUNT),
            "--seed": (self.seed, 0, bound.MOST_SEED),
        }
        for name, (count, least, most) in counts.items():
            bound.check_count(name, count, least, most)
        if self.race is not None:
            check_rule(self.race)
        named_budget.check(self.auto, budget.calls)
        for name, amount in {"--budget-usd": budget.usd, "--budget-seconds": budget.seconds}.items():
            if amount is not None and not bound.number(amount, name) > 0:
                raise ConfigError(f"{name} is {amount}; it must be above 0")
        if (self.price_in is None) != (self.price_out is None):
            raise ConfigError("give both --price-in and --price-out, in dollars per million tokens")
        for name, price in {"--price-in": self.price_in, "--price-out": self.price_out}.items():
            if price is not None and not bound.number(price, name, bound.MOST_PRICE) >= 0:
                raise ConfigError(f"{name} is {price}; a price is at least 0 dollars per million tokens")
        check_address(self.api_base, "--api-base")
        object.__setattr__(self, "objectives", read_objectives(self.objectives))
        if self.race == "halving" and self.objectives is not None:
            raise ConfigError(
                "--race halving drops whoever scores less, however short; with --objectives take another"
            )
        if self.out is not None:
            object.__setattr__(self, "out", Path(self.out))  # Python callers write it as text as well
        for name in ("model", "optimizer_model", "judge_model", "embedding_model"):
            if (model := getattr(self, name)) is not None and not model.strip():
                flag = "--" + name.replace("_", "-")
                raise ConfigError(f"{flag} is empty; write any litellm name, or sim for the built-in simulator")

    @property
    def prices(self) -> tuple[Decimal, Decimal] | None:
        """Dollars per input and per output token, as the user gave them; None = not given."""
        if self.price_in is None or self.price_out is None:
            return None
        return Decimal(str(self.price_in)) / 1_000_000, Decimal(str(self.price_out)) / 1_000_000

    @property
    def limit(self) -> Amount:
        """The budget in calls, tokens and dollars; what is not limited is endless."""
        usd = None if self.budget.usd is None else Decimal(str(self.budget.usd))
        return limit_of(usd, self.budget.calls, self.budget.tokens)

    def with_default_budget(self, calls_per_answer: int = 1) -> Settings:
        """Return these settings with a budget in figures: what `auto` means; 1,000 calls where there is none."""
        if self.auto is not None:
            calls = named_budget.calls_of(self.auto, calls_per_answer)
            return replace(self, auto=None, budget=replace(self.budget, calls=calls))
        if self.budget != Budget():
            return self
        return replace(self, budget=Budget(calls=DEFAULT_CALLS))


def check_rule(name: object) -> None:
    """Raise ConfigError if no rule of a race has that name."""
    from promptopt.stats import RULES  # numpy, which the help does without

    if not isinstance(name, str) or name not in RULES:
        raise ConfigError(f"--race {name}: {nearest(str(name), RULES)}")


def load_prompt(prompt: str | Path | Prompt) -> promptfile.PromptFile:
    """Return the prompt of a file (Path), of text in its format (str), or as it is.

    Raises:
        ConfigError: it cannot be read or is malformed.
    """
    if isinstance(prompt, Prompt):
        return promptfile.PromptFile(replace(prompt, instruction=normal_form(prompt.instruction)), {}, "")
    if isinstance(prompt, Path):
        return promptfile.read(prompt)
    if not isinstance(prompt, str):
        raise ConfigError(f"the prompt is {prompt!r:.80}; give its text, the Path of its file, or a Prompt")
    if re.fullmatch(r"\S+\.(md|txt|markdown|prompt|json|yaml|yml)", prompt.strip()):
        raise ConfigError(f"the prompt is {prompt!r}, which looks like a path; give Path({prompt!r}), or text")
    return promptfile.parse(prompt)


def set_initial(task: Task, file: promptfile.PromptFile, source: str | None = None) -> Task:
    """Return `task` with the prompt of a file as the one to improve; `source` is the file, None = no file.

    Raises:
        ConfigError: prompt and columns do not go together; with file and line where a placeholder is wrong. Or it
            holds characters that can be sent to no model.
    """
    if fault := unfit(file.prompt):
        raise ConfigError(f"{source or 'the prompt'}: {fault}")
    try:
        return task.with_initial(file.prompt)
    except ConfigError as error:
        message = _placed(str(error), file.prompt, task.columns, source)
        hint = "; images need no placeholder, they stand before the text" if task.has_images else ""
        raise ConfigError(message + hint) from error


def name_front_matter(message: str, settings: Mapping[str, str], front_matter: str, source: str) -> str:
    """Return `message` with the line of the front matter whose value it complains of, if there is one."""
    for key in ("metric", "target", "input", "answer-pattern"):
        if key in settings and (repr(settings[key]) in message or f"--{key} {settings[key]}:" in message):
            lines = front_matter.split("\n")
            i_line = next((i for i, line in enumerate(lines, start=1) if re.match(rf"{key}\s*:", line)), 1)
            place = source if "\n" not in source else "prompt"
            return f"{place}:{i_line}: {message}"
    return message


def _placed(message: str, prompt: Prompt, columns: tuple[str, ...], source: str | None) -> str:
    """Return `message` with the file, and the line of the first placeholder that names no column."""
    if source is None:
        return message
    try:
        lines = decode(Path(source).read_bytes(), Path(source)).split("\n")
    except OSError:
        lines = prompt.instruction.split("\n")
    is_body = lines[0].rstrip() != "---"
    for i_line, line in enumerate(lines, start=1):
        if not is_body:
            is_body = i_line > 1 and line.rstrip() == "---"
            continue
        try:
            template.placeholders(line, columns)
        except ConfigError as error:
            if str(error) == message:
                return f"{source}:{i_line}: {message}"
    return f"{source}: {message}"


def load_task(
    source: str | Path | Table,
    *,
    metric: str | Metric | Callable[..., object] = "auto",
    target: str = "target",
    input: str | None = None,
    images: str | Sequence[str] = (),
    description: str = "",
    answer_pattern: str | None = None,
    seed: int = 0,
    columns_of: Prompt | None = None,
    needs_labels: bool | None = None,
) -> tuple[Task, tuple[str, ...]]:
    """Return the task of a data file, a folder, a bundled name or a plug-in, and notes to show to the user.

    Args:
        source: data file (.jsonl, .json, .csv, .tsv, .parquet), folder with train, dev and test files, name of a
            bundled or installed task, `path.py:Name` or `package.module:Name` (a Task, or a function that returns
            one); or a DataFrame (pandas, polars), a list of dicts, or a dict of such for train, dev, test.
        metric: name, `auto` (picked by the targets), `none` (no scores), `judge:FILE.md`, `path.py:function`, or a
            function of reply and example, or an object with such a `score`.
        target: column of the targets, or several ("a,b") that make a target object; rows may lack it where nothing
            needs them. A list of texts or numbers in it means that any of them is right.
        input: column that is the user message of a prompt without placeholders; None = `input`, or the
            only one.
        images: columns whose cells name an image: a file (its path is relative to the data file), an http(s) URL
            or a data URL; they are shown to the task model, and are no inputs.
        answer_pattern: regular expression whose one group, or group `answer`, is the answer in a reply; the last
            match counts. None = the built-in places.
        seed: for splitting a single file.
        columns_of: the prompt that will be used; its placeholders name the columns that matter.
        needs_labels: whether the strategy does; None = either will do.

    Raises:
        ConfigError: something is wrong with the data, with file, line and remedy.
    """
    from promptopt.tasks import metrics

    flags = {"--metric": metric != "auto", "--target": target != "target", "--image": bool(images)}
    flags |= {"--input": input is not None, "--answer-pattern": answer_pattern is not None}
    if (plugged := _plugged_task(source, [flag for flag, is_given in flags.items() if is_given])) is not None:
        return replace(plugged, description=description or plugged.description), ()
    found, name, settings = _find_data(source)
    place = str(found) if isinstance(found, Path) else name
    own = None if isinstance(metric, str) else given(metric, answer_pattern)
    metric = str(metric if own is None else own.name)
    metric = settings.get("metric", metric) if metric == "auto" else metric
    rows = data.load(
        found,
        seed=seed,
        target=target,
        targets=_wanted_targets(metric, needs_labels),
        input=input,
        images=(images,) if isinstance(images, str) else tuple(images),
        **metrics.list_reading(metric),
    )
    notes = [note.replace(place, name) if settings else note for note in rows.notes]
    chosen, reason = (own, "") if own is not None else _metric(metric, rows, place, answer_pattern)
    if reason:
        notes.append(f"metric {chosen.name}: {reason}")
    task = Task(
        name=name,
        metric=chosen,
        train=rows.train,
        dev=rows.dev,
        test=rows.test,
        description=description or settings.get("description", ""),
        input_column=_input_column(input, rows.columns, columns_of),
    )
    if metric == "auto" and not task.is_scored and needs_labels is None:
        _check_no_targets(place, target, replace(task, initial=columns_of or Prompt("")))
    return task, tuple(notes)


def load_examples(source: str | Path, *, target: str = "target") -> tuple[Example, ...]:
    """Return all examples of a data file, a folder or a bundled task, as a run on them would know them.

    Args:
        source: as in `load_task`.
        target: column of the targets; every row must have one.

    Raises:
        ConfigError: something is wrong with the data, with file, line and remedy.
    """
    rows = data.load(_find_data(source)[0], seed=0, target=target)
    return (*rows.train, *rows.dev, *rows.test)


def _wanted_targets(metric: str, needs_labels: bool | None) -> data.Targets:
    """Return which rows must have a target for a metric and a strategy."""
    from promptopt.tasks import metrics

    if metric == UNSCORED:
        return "any"
    return "all" if needs_labels or (metric != "auto" and metrics.needs_targets(metric)) else "all or none"


def _check_no_targets(place: str, target: str, task: Task) -> None:
    """Raise ConfigError if a column that the prompt does not show may hold the targets."""
    try:
        shown = task.shown_columns
    except ConfigError:  # a wrong placeholder: `set_initial` says so, with its line
        return
    unused = [column for column in task.columns if column not in shown]
    if unused:
        raise ConfigError(
            f"{place}: no target column {target!r}, and the prompt does not show {', '.join(map(repr, unused))}; "
            "name the column of the right answers with --target, or say --metric none: there are no labels"
        )


def _plugged_task(source: str | Path | Table, options: list[str]) -> Task | None:
    """Return the task that a plug-in gives; None = `source` is something else. It takes no options of data."""
    from promptopt.tasks import plugged

    task = plugged.find(source) if isinstance(source, str) and not os.path.exists(source) else None
    if task is not None and options:
        raise ConfigError(f"{', '.join(options)}: only for data; the Task {source!r} has its own, set it there")
    return task


def task_file(source: str | Path | Table) -> dict[str, str]:
    """Return what tells the code of a task that is a plug-in from other code, as part of a run's source."""
    from promptopt.tasks import plugged

    is_name = isinstance(source, str) and not os.path.exists(source)
    found = plugged.source_digest(str(source)) if is_name else ""
    return {"task_file_digest": found} if found else {}


def _find_data(source: str | Path | Table) -> tuple[Path | Table, str, Mapping[str, str]]:
    """Return where the data lies (or itself), its short name, and what a bundled task says of itself."""
    from promptopt import plugin
    from promptopt.tasks import bundled, plugged

    if not isinstance(source, str | Path):
        return source, data.NAME, {}
    path, name = Path(source), str(source)
    try:
        is_there = path.exists() and name != ""
    except OSError as error:
        raise ConfigError(f"--data {name[:80]!r}: cannot be read ({error.strerror}); check the path") from error
    if is_there:
        return path, path.resolve().stem, {}
    if name not in bundled.names():
        hint = nearest(name, plugin.names(plugged.kind()))
        raise ConfigError(f"--data {name!r}: no such file or folder, nor a bundled or installed task; {hint}")
    path = bundled.folder(name)
    return path, name, promptfile.read(path / bundled.PROMPT).settings


def _metric(name: str, rows: data.Dataset, place: str, answer_pattern: str | None) -> tuple[Metric, str]:
    """Return the metric and, if `auto` picked it, why."""
    from promptopt.tasks import metrics

    known, all_rows = (*rows.train, *rows.dev), (*rows.train, *rows.dev, *rows.test)
    targets = [example.target for example in _single(known)]
    chosen, reason = metrics.choose(targets) if name == "auto" else (None, "")
    try:
        metrics.check_targets(chosen.name if chosen else name, _single(all_rows))
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    return metrics.load(name, targets, answer_pattern=answer_pattern), reason


def _single(examples: Sequence[Example]) -> list[Example]:
    """Return the examples once for each target that is right, with it alone."""
    return [
        replace(example, target=target, also_right=())
        for example in examples
        for target in (example.targets or (None,))
    ]


def _input_column(named: str | None, columns: tuple[str, ...], prompt: Prompt | None) -> str:
    if named is not None and named not in columns:
        raise ConfigError(f"--input {named}: there is no such column (columns: {', '.join(columns)})")
    if named is not None:
        return named
    if not columns:  # images alone
        return ""
    if "input" in columns or len(columns) == 1:
        return "input" if "input" in columns else columns[0]
    if prompt is not None and _has_placeholder(prompt, columns):
        return columns[0]
    raise ConfigError(
        f"the prompt has no placeholder and the data has several columns ({', '.join(columns)}); "
        "write {{column}} where the input belongs, or name it with --input"
    )


def _has_placeholder(prompt: Prompt, columns: tuple[str, ...]) -> bool:
    try:
        return bool(template.placeholders(prompt.instruction, columns))
    except ConfigError:  # a wrong one: `set_initial` says so, with its line
        return True


def check_same(known: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path, what: str = "run") -> None:
    """Raise ConfigError unless only the budget differs, and only upwards."""
    pairs = {key: (known.get(key), wanted.get(key)) for key in (*wanted, *known) if key != "budget"}
    parts = [part for key, (old, new) in pairs.items() if old != new for part in _differences(key, old, new)]
    if parts:
        raise ConfigError(
            f"{folder} holds a {what} of another configuration ({'; '.join(parts)}); "
            "choose another --out, or repeat the command that made it"
        )
    for key, new in wanted["budget"].items():
        old = known["budget"][key]
        if old != new and (old is None or (new is not None and Decimal(new) < Decimal(old))):
            raise ConfigError(
                f"{folder} was run with budget {key} {old or 'not limited'}, now {new}; a budget may be raised, "
                "not lowered: give at least that, or choose another --out"
            )


def _differences(key: str, old: Any, new: Any) -> list[str]:
    """Return in words how a part of the configuration differs; digests mean nothing to a reader."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = dict.fromkeys((*old, *new))
        parts = [_differences(f"{key} {name}", old.get(name), new.get(name)) for name in names]
        return [part for row in parts for part in row]
    if old == new:
        return []
    if any(key == part or key.endswith(f" {part}") for part in _DIGESTED):
        return [f"{key}: its content differs"]
    return [f"{key}: {old!r} there, {new!r} now"]


def options_of(source: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the command line's options that give these settings; those that may be repeated as mappings.

    Args:
        source: where prompt and data come from, with the data options.
    """
    names = [key for key in ("data", *DATA_OPTIONS) if key in source]
    options: dict[str, Any] = {key.replace("_", "-"): source[key] for key in names}
    if "images" in options:
        images = options.pop("images")
        options["image"] = [images] if isinstance(images, str) else list(images)
    options |= {f"budget-{key}": value for key, value in asdict(settings.budget).items()}
    skipped = ("budget", "options", "model_options", "out")
    options |= {key.replace("_", "-"): value for key, value in asdict(settings).items() if key not in skipped}
    if settings.objectives is not None:
        options["objectives"] = ",".join(settings.objectives)
    if settings.api_base is not None:
        options["api-base"] = masked(settings.api_base)
    options["set"] = dict(settings.options)
    options["set-model"] = {
        f"{role}.{name}": shown(name, value) if isinstance(value, str) else json.dumps(value)
        for role, given in settings.model_options.items()
        for name, value in given.items()
    }
    for key in ("metric", "optimizer"):
        if key in options:
            options[key] = _rooted(options[key])
    return {key: value for key, value in options.items() if value not in (None, {}) and value is not False}


def shown(name: str, value: str) -> str:
    """Return an option of a model as it is recorded: an address without a token that it may hold."""
    return masked(value) if name == "api_base" else value


def _rooted(name: str) -> str:
    """Return the name of a plug-in with the whole path of its file, if it has one: other folders know it too."""
    kind, path, attribute = _FILE_PLUGIN.fullmatch(name).groups(default="")  # type: ignore[union-attr]
    return f"{kind}{Path(path).resolve()}{attribute}" if Path(path).suffix and Path(path).is_file() else name


def command_of(source: Mapping[str, Any], settings: Settings) -> str:
    """Return the command that runs it again into another folder; "" for a Task made in Python."""
    if "data" not in source:
        return ""
    words = ["promptopt", "optimize", source.get("prompt_file", "PROMPT_FILE")]
    for key, value in options_of(source, settings).items():
        if isinstance(value, Mapping):
            words += [word for name, text in value.items() for word in (f"--{key}", f"{name}={text}")]
        elif isinstance(value, list):
            words += [word for text in value for word in (f"--{key}", text)]
        else:
            words += [f"--{key}"] if value is True else [f"--{key}", str(value)]
    return shlex.join(words)


def toml_value(value: Any) -> Any:
    """Return `value` without None, and with dollars as exact text."""
    if isinstance(value, Mapping):
        return {key: toml_value(inner) for key, inner in value.items() if inner is not None}
    return str(value) if isinstance(value, Decimal) else value
