"""Tasks that others wrote: a Task, or a function without arguments that returns one."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature

from promptopt import plugin
from promptopt.errors import ConfigError
from promptopt.task import Task
from promptopt.tasks import bundled


def kind() -> plugin.Kind:
    """Return tasks as a kind of plug-ins."""
    return plugin.Kind("--data", "promptopt.tasks", bundled.names())


def find(name: str) -> Task | None:
    """Return the task that `path.py:Name`, `package.module:Name` or an installed name stands for; None = no such.

    Raises:
        ConfigError: it cannot be imported, raises, or gives no Task.
    """
    found = plugin.find(kind(), name)
    if found is None:
        return None
    task = found.value
    if not isinstance(task, Task) and callable(task):
        if needed := _arguments(task):
            raise ConfigError(
                f"--data {name!r}: {found.place} needs {', '.join(needed)}; name a promptopt.Task, or a function "
                "without arguments that returns one"
            )
        try:
            task = task()
        except ConfigError as error:
            raise ConfigError(f"--data {name!r}: {error}") from error
        except (Exception, SystemExit) as error:  # the function is the user's; its error is re-raised as ours
            place = plugin.raised_at(error, found.place)
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"--data {name!r}: {place} raised {reason}; mend the function") from error
    if not isinstance(task, Task):
        raise ConfigError(
            f"--data {name!r}: {found.place} gives {type(task).__name__} there; name a promptopt.Task, or a "
            "function without arguments that returns one"
        )
    return task


def _arguments(function: Callable[..., object]) -> list[str]:
    """Return the arguments that a function cannot do without."""
    given = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError):  # some that are built in tell none
        return []
    return [p.name for p in parameters if p.default is Parameter.empty and p.kind not in given]


def source_digest(name: str) -> str:
    """Return the digest of the file that the task called `name` is written in; "" if it is no plug-in."""
    return plugin.source_digest(kind(), name)
