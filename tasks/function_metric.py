"""Metrics that users write: a function of reply and example, or an object with such a `score`."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from promptopt import plugin
from promptopt.errors import ConfigError, TaskError
from promptopt.secret import clean
from promptopt.types import Example, Metric, Score, digest


@dataclass(frozen=True)
class FunctionMetric:
    """Calls the user's `function(reply, example)`.

    Args:
        name: as the user gave it: `path.py:function`, `package.module:function` or an installed name.
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
            said = clean(f"{type(error).__name__}: {error}")  # it becomes part of the result
            raise TaskError(f"{place} raised {said}; mend the function") from error
        return _score(result, place)


def wrapped(found: plugin.Plugin) -> FunctionMetric:
    """Return the metric that a plug-in is: a function, an object with `score`, or a class of such objects.

    Raises:
        ConfigError: it is none of them, or cannot be called with reply and example.
    """
    what, value = f"metric {found.name}", found.value
    shown = found.name.rpartition(":")[2]
    if inspect.isclass(value) and hasattr(value, "score"):
        try:
            value = value()
        except Exception as error:
            raise ConfigError(
                f"{what}: {shown}() raised {type(error).__name__}: {error}; a class is made without arguments"
            ) from error
    function = getattr(value, "score", value)
    if inspect.isclass(value) or not callable(function):
        raise ConfigError(f"{what}: {shown} is no function; write def {shown}(reply, example)")
    try:
        inspect.signature(function).bind("reply", "example")
    except TypeError as error:
        message = f"{shown} cannot be called with two arguments ({error})"
        raise ConfigError(f"{what}: {message}; write def {shown}(reply, example)") from error
    except ValueError:  # a builtin without a signature: its first call tells
        pass
    return FunctionMetric(found.name, function, found.digest)


def given(metric: Metric | Callable[..., object], answer_pattern: str | None = None) -> Metric:
    """Return the metric that an object in Python is: itself, if it has a name and scores; else a function as one.

    A function is known by its name and the text of its source; where Python has no source, by its name alone.

    Raises:
        ConfigError: it is neither, or cannot be called with reply and example; or a pattern of answers is given,
            which it does not use.
    """
    if answer_pattern is not None:
        raise ConfigError("answer_pattern: your own metric looks for the answer itself; leave one of them out")
    if isinstance(getattr(metric, "name", None), str) and hasattr(metric, "score"):
        return cast(Metric, metric)
    code = metric if inspect.isclass(metric) or inspect.isroutine(metric) else type(metric)
    name = f"{getattr(code, '__module__', '')}:{getattr(code, '__qualname__', code)}"
    try:
        source = inspect.getsource(code)
    except (OSError, TypeError):
        source = ""
    return wrapped(plugin.Plugin(name, metric, name, digest(name, source)))


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
