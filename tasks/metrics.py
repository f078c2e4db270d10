"""The metrics: each scores a reply against an example's target, and says in words what was wrong."""

from __future__ import annotations

import importlib.util
import inspect
import json
import numbers
import re
import string
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType

import numpy as np

from promptopt.errors import ConfigError, TaskError, nearest
from promptopt.task import UNSCORED
from promptopt.tasks import rubric
from promptopt.tasks.answer import extract, is_number, parse_letters, parse_number, parse_object, trim
from promptopt.types import Example, Metric, Score, digest

METRICS: Mapping[str, str] = MappingProxyType(
    {
        "exact": "the answer equals the target; runs of whitespace count as one space",
        "label": "the answer is the right one of the labels in the data; case and final punctuation ignored",
        "choice": "the answer names the right option letter: (B), B, B), b., Option B",
        "number": "the last number of the answer equals the target as a number; $ , % ignored",
        "json": "share of the target's fields that the answer's JSON object has right",
        "none": "no score: where there are no targets, a judge model compares answers",
        "judge:FILE.md": "a judge model's verdicts on the principles that a Markdown file lists; one more call",
        "path.py:function": "your own `def function(reply, example)`: number, (number, feedback) or Score",
    }
)

_N_LETTERS = 8
_LONGEST_LABEL = 80


@dataclass(frozen=True)
class Exact:
    """The answer equals the target, whitespace folded."""

    name: str = "exact"

    def score(self, reply: str, example: Example) -> Score:
        """Return 1 if the answer, or the whole reply, is the target."""
        target = _target(example, self.name)
        answer = extract(reply)
        wanted = {_spaced(target), _spaced(trim(target))}
        if _spaced(answer) in wanted or _spaced(reply) in wanted:
            return Score(1.0)
        if not answer:
            return Score(0.0, f"no answer found in the reply; expected {_short(target)}", is_parsed=False)
        return Score(0.0, f"expected {_short(target)}, got {_short(answer)}")


@dataclass(frozen=True)
class Label:
    """The answer is the right one of `labels`; an answer that is none of them is unparseable."""

    labels: tuple[str, ...]
    name: str = "label"

    def score(self, reply: str, example: Example) -> Score:
        """Return 1 if the answer is the target label."""
        target = _target(example, self.name)
        answer = extract(reply)
        folded = _fold_label(answer)
        if folded and folded == _fold_label(target):
            return Score(1.0)
        if folded and any(folded == _fold_label(label) for label in self.labels):
            return Score(0.0, f"expected {_short(target)}, got {_short(answer)}")
        got = f"the answer {_short(answer)} is none of the labels" if answer else "no label found"
        return Score(0.0, f"{got}; expected {_short(target)}", is_parsed=False)


@dataclass(frozen=True)
class Choice:
    """The answer names the target's option letter, and no other."""

    name: str = "choice"

    def score(self, reply: str, example: Example) -> Score:
        """Return 1 if the answer names the target's letter."""
        target = _target(example, self.name)
        wanted = parse_letters(trim(target))
        if len(wanted) != 1:
            raise TaskError(f"example {example.id!r}: target {_short(target)} is no option letter such as (B)")
        found = parse_letters(extract(reply))
        if not found:
            return Score(0.0, f"no option letter found in the reply; expected ({wanted[0]})", is_parsed=False)
        if len(found) > 1:
            got = "several option letters found: " + ", ".join(f"({letter})" for letter in found)
            return Score(0.0, f"{got}; expected ({wanted[0]})", is_parsed=False)
        if found == wanted:
            return Score(1.0)
        return Score(0.0, f"expected ({wanted[0]}), got ({found[0]})")


@dataclass(frozen=True)
class Number:
    """The last number of the answer equals the target as a number."""

    name: str = "number"

    def score(self, reply: str, example: Example) -> Score:
        """Return 1 if the last number of the answer equals the target exactly."""
        target = _target(example, self.name)
        wanted = parse_number(target)
        if wanted is None:
            raise TaskError(f"example {example.id!r}: target {_short(target)} holds no number")
        answer = extract(reply)
        found = parse_number(answer)
        if found is None:
            return Score(0.0, f"no number found in the answer; expected {_short(target)}", is_parsed=False)
        if found == wanted:
            return Score(1.0)
        return Score(0.0, f"expected {_short(target)}, got {_short(answer)}")


@dataclass(frozen=True)
class Json:
    """Share of the target's fields that the answer's JSON object has right; other fields do not count."""

    name: str = "json"

    def score(self, reply: str, example: Example) -> Score:
        """Return the share of right fields; text is compared folded, numbers as numbers."""
        target = _target(example, self.name)
        wanted = parse_object(target)
        if wanted is None:
            raise TaskError(f"example {example.id!r}: target {_short(target)} is no JSON object")
        found = _find_object(reply)
        if found is None:
            names = ", ".join(wanted)
            return Score(0.0, f"no JSON object found in the reply; expected the fields {names}", is_parsed=False)
        wrong = [name for name in wanted if not (name in found and _is_equal(wanted[name], found[name]))]
        if not wrong:
            return Score(1.0)
        lines = [_wrong_field(name, wanted, found) for name in wrong]
        return Score(1 - len(wrong) / len(wanted), "; ".join(lines))


@dataclass(frozen=True)
class Unscored:
    """Gives no score: every value is NaN. For data without targets; a judge model compares answers instead."""

    name: str = UNSCORED

    def score(self, reply: str, example: Example) -> Score:
        """Return no score."""
        return Score(float("nan"))


@dataclass(frozen=True)
class FunctionMetric:
    """Calls the user's `function(reply, example)`.

    Args:
        name: as the user gave it, `path.py:function`.
        function: returns a number in [0, 1], (number, feedback) or a Score.
        digest: of the file's text, so that a changed metric can be told from the old one.
        reads_all_targets: the function is called once, also where several targets are right.
    """

    name: str
    function: Callable[[str, Example], object]
    digest: str
    reads_all_targets: bool = True

    def score(self, reply: str, example: Example) -> Score:
        """Return what the user's function says of `reply`.

        Raises:
            TaskError: the function raised, or returned something else than it may.
        """
        place = f"metric {self.name} on example {example.id!r}"
        try:
            result = self.function(reply, example)
        except Exception as error:
            raise TaskError(f"{place} raised {type(error).__name__}: {error}; mend the function") from error
        return _score(result, place)


def load(name: str, targets: Sequence[str | None]) -> Metric:
    """Return the metric called `name` for data with these targets (of train and dev; None = no label).

    Raises:
        ConfigError: no such metric, or the targets are not of its kind.
    """
    if name == "auto":
        return choose(targets)[0]
    if ".py:" in name:
        return _load_function(name)
    if name == UNSCORED:
        return Unscored()
    if name.startswith(rubric.PREFIX):
        return rubric.load(name)
    build = _BUILD.get(name)
    if build is None:
        raise ConfigError(
            f"unknown metric {name!r} (your own function is named as path.py:function); "
            f"{nearest(name, [*_BUILD, UNSCORED, 'auto'])}"
        )
    known = _known(targets, f"metric {name!r}")
    fits = {"choice": _is_letter, "number": is_number, "json": _is_object}.get(name)
    odd = next((target for target in known if fits is not None and not fits(target)), None)
    if odd is not None:
        raise ConfigError(
            f"metric {name!r}: target {_short(odd)} does not fit it ({METRICS[name]}); "
            "correct the target, or take another metric, such as auto"
        )
    return build(known)


def choose(targets: Sequence[str | None]) -> tuple[Metric, str]:
    """Return the metric that fits the targets, and the reason as a sentence: what `auto` means."""
    known = tuple(target for target in targets if target is not None)
    if not known:
        return Unscored(), f"no row has a target, so answers get no scores: {UNSCORED}"
    n, distinct = len(known), set(known)
    if all(map(_is_object, known)):
        return Json(), f"all {n} targets are JSON objects: json"
    bare = [target for target in distinct if len(target.strip()) == 1]
    if all(map(_is_letter, known)) and (not bare or _are_options(distinct)):
        return Choice(), f"all {n} targets are option letters: choice"
    if all(map(is_number, known)):
        return Number(), f"all {n} targets are numbers: number"
    labels = {_fold_label(target) for target in known}
    is_short = all(len(target) <= _LONGEST_LABEL for target in distinct)
    if is_short and len(labels) <= max(20, 2 * n / 5) and 2 * len(labels) <= n:
        return _label(known), f"{len(labels)} distinct targets in {n} rows: label"
    return Exact(), f"{len(distinct)} distinct targets in {n} rows, of no special form: exact"


def _load_function(name: str) -> FunctionMetric:
    """Return the metric that `name`, as `path.py:function`, names. Runs the file.

    Raises:
        ConfigError: no such file or function, or the file cannot be imported.
    """
    file, _, function_name = name.rpartition(":")
    path = Path(file)
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"metric {name}: cannot read {file} ({error}); check the path") from error
    module = _run(path, name, digest(str(path.absolute()), source))
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise ConfigError(
            f"metric {name}: {file} has no function {function_name!r}; {nearest(function_name, names)}"
        )
    try:
        inspect.signature(function).bind("reply", "example")
    except TypeError as error:
        message = f"{function_name} cannot be called with two arguments ({error})"
        raise ConfigError(f"metric {name}: {message}; write def {function_name}(reply, example)") from error
    return FunctionMetric(name, function, digest(source))


def _run(path: Path, name: str, identity: str) -> ModuleType:
    module_name = f"promptopt_metric_{identity}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"metric {name}: {path} is no Python file; name a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickling look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        line = error.lineno if isinstance(error, SyntaxError) else _line(error, path)
        place = f"{path}:{line}" if line else str(path)
        message = f"metric {name}: {place} cannot be imported ({type(error).__name__}: {error}); mend the file"
        raise ConfigError(message) from error
    return module


def _line(error: Exception, path: Path) -> int | None:
    """Return the last line of the file at `path` that the traceback passes through."""
    line, step = None, error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == str(path.absolute()):
            line = step.tb_lineno
        step = step.tb_next
    return line


def _score(result: object, place: str) -> Score:
    value: object
    if isinstance(result, Score):
        value, feedback, is_parsed = result.value, result.feedback, result.is_parsed
    elif isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], str | None):
        value, feedback, is_parsed = result[0], result[1], True
    else:
        value, feedback, is_parsed = result, None, True
    if not isinstance(value, numbers.Real | np.bool_):
        message = f"returned {result!r:.80}; return a number in [0, 1], (number, feedback) or a Score"
        raise TaskError(f"{place} {message}")
    number = float(value)
    if not 0 <= number <= 1:
        raise TaskError(f"{place} returned {number}; a score lies in [0, 1], higher is better, so rescale it")
    return Score(number, feedback, is_parsed)


def _known(targets: Sequence[str | None], what: str) -> tuple[str, ...]:
    known = tuple(target for target in targets if target is not None)
    if not known:
        raise ConfigError(
            f"{what}: no row has a target; name the target column, your own path.py:function, or the metric "
            f"{UNSCORED}"
        )
    return known


def _target(example: Example, name: str) -> str:
    if example.target is None:
        raise TaskError(f"example {example.id!r} has no target; metric {name!r} compares with it")
    return example.target


def _label(known: Sequence[str]) -> Label:
    firsts: dict[str, str] = {}
    for target in known:
        firsts.setdefault(_fold_label(target), target)
    return Label(tuple(sorted(firsts.values())))


def _is_letter(target: str) -> bool:
    return re.fullmatch(r"\([A-Za-z]\)|[A-Za-z]", target.strip()) is not None


def _are_options(targets: set[str]) -> bool:
    letters = {target.strip(" ()").upper() for target in targets}
    return len(letters) <= _N_LETTERS and letters <= set(string.ascii_uppercase[:_N_LETTERS])


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _find_object(reply: str) -> dict[str, object] | None:
    """Return the object that the reply is; else the last one of the answer, or of the whole reply."""
    texts = (reply,) if _is_object(trim(reply)) else (extract(reply), reply)
    return next((found for found in map(parse_object, texts) if found is not None), None)


def _is_equal(wanted: object, found: object) -> bool:
    if isinstance(wanted, bool) or isinstance(found, bool):
        return wanted is found
    if isinstance(wanted, int | float) and isinstance(found, int | float):
        return wanted == found
    if isinstance(wanted, str) and isinstance(found, str):
        return _spaced(wanted).casefold() == _spaced(found).casefold()
    if isinstance(wanted, list) and isinstance(found, list):
        return len(wanted) == len(found) and all(map(_is_equal, wanted, found))
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(name in found and _is_equal(value, found[name]) for name, value in wanted.items())
    return wanted is None and found is None


def _wrong_field(name: str, wanted: Mapping[str, object], found: Mapping[str, object]) -> str:
    expected = _short(json.dumps(wanted[name], ensure_ascii=False))
    got = f"got {_short(json.dumps(found[name], ensure_ascii=False))}" if name in found else "it is missing"
    return f"field {name!r}: expected {expected}, {got}"


def _spaced(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _fold_label(text: str) -> str:
    folded = " ".join(_spaced(text).casefold().replace("_", " ").split())
    return folded.rstrip(".,;:!? ").strip("*\"'`") or folded


def _short(text: str) -> str:
    shown = " ".join(text.split())
    return repr(shown if len(shown) <= 80 else shown[:77] + "...")


_BUILD: Mapping[str, Callable[[Sequence[str]], Metric]] = {
    "exact": lambda known: Exact(),
    "label": _label,
    "choice": lambda known: Choice(),
    "number": lambda known: Number(),
    "json": lambda known: Json(),
}
