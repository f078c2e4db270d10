"""Finds what others wrote, the same way for strategies, metrics and tasks.

A plug-in is named `path.py:Name` (a file), `package.module:Name` (an importable module), or by the short name
under which an installed package lists it in the entry-point group of its kind. A name that is built in is nobody
else's: a package that takes it is refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from promptopt.decoding import read_text
from promptopt.errors import ConfigError, nearest
from promptopt.types import digest

_MOST_BYTES = 10_000_000
_MODULE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class Kind:
    """A kind of plug-ins.

    Args:
        what: the word for it in messages, such as `metric`.
        group: entry-point group in which packages list theirs.
        built_in: names that are taken.
    """

    what: str
    group: str
    built_in: tuple[str, ...]


@dataclass(frozen=True)
class Plugin:
    """What a name stands for.

    Args:
        name: as the user gave it.
        value: the object.
        place: its file, or its module where that has none, for messages.
        digest: of the text of its file, so that changed code can be told from the old one.
    """

    name: str
    value: Any
    place: str
    digest: str


def names(kind: Kind) -> tuple[str, ...]:
    """Return the short names of a kind, built in and installed, sorted."""
    return tuple(sorted({*kind.built_in, *(entry.name for entry in entry_points(group=kind.group))}))


def installed(kind: Kind) -> tuple[tuple[str, str], ...]:
    """Return (name, package) of all that packages list, sorted."""
    return tuple(sorted((entry.name, _package(entry)) for entry in entry_points(group=kind.group)))


def find(kind: Kind, name: str) -> Plugin | None:
    """Return the plug-in called `name`; None if it is written as a short name that no package lists.

    Its module is run.

    Raises:
        ConfigError: no such file, module or object; it raises when it is imported; a package lists a name that is
            built in; several packages list it.
    """
    if ".py:" in name:
        return _from_file(kind, name)
    entry = _entry(kind, name)
    if entry is not None:
        what = f"{kind.what} {name!r} (of the package {_package(entry)}, entry point {entry.value!r})"
        return _from_module(name, entry.value.partition("[")[0].strip(), what)
    return _from_module(name, name, f"{kind.what} {name!r}") if _MODULE.fullmatch(name) else None


def is_code(name: str) -> bool:
    """Return whether `name` is written as that of a file or module, which is run when it is looked for."""
    return ".py:" in name or _MODULE.fullmatch(name) is not None


def check_unshared(kind: Kind, name: str) -> None:
    """Raise ConfigError if `name` is built in and a package lists one of that name too."""
    _entry(kind, name)


def source_digest(kind: Kind, name: str) -> str:
    """Return the digest of the file that a plug-in called `name` is written in; "" if it is built in or none."""
    if name in kind.built_in:
        return ""
    if ".py:" in name:
        return digest(_source(kind, name))
    found = find(kind, name)
    return "" if found is None else found.digest


def raised_at(error: BaseException, own: str | Path) -> str:
    """Return `FILE:LINE` where an error arose: the deepest place in the file or folder `own`, else of all."""
    folder = Path(own).absolute() if str(own) else Path()
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    places: list[tuple[str, int]] = []
    step = error.__traceback__
    while step is not None:
        places.append((step.tb_frame.f_code.co_filename, step.tb_lineno))
        step = step.tb_next
    places = [(file, line) for file, line in places if not file.startswith("<frozen") and file != __file__]
    inner = [(file, line) for file, line in places if folder in (Path(file), *Path(file).parents)]
    return next((f"{file}:{line}" for file, line in reversed(inner or places)), str(folder))


def _entry(kind: Kind, name: str) -> EntryPoint | None:
    """Return the entry point called `name`."""
    entries = tuple(entry_points(group=kind.group, name=name))
    packages = ", ".join(sorted({_package(entry) for entry in entries}))
    if entries and name in kind.built_in:
        raise ConfigError(
            f"{kind.what} {name!r} is built in, and the package {packages} lists one of that name in "
            f"{kind.group}; rename it there or uninstall the package. Its own is reached as {entries[0].value}"
        )
    values = {entry.value for entry in entries}
    if len(values) > 1:
        raise ConfigError(
            f"{kind.what} {name!r} stands for several things ({', '.join(sorted(values))}), listed by {packages}; "
            "name the one that you mean as package.module:Name"
        )
    return entries[0] if entries else None


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "unknown"


def _from_file(kind: Kind, name: str) -> Plugin:
    file, _, attribute = name.rpartition(":")
    path, what = Path(file), f"{kind.what} {name!r}"
    source = _source(kind, name)
    module_name = f"promptopt_file_{digest(str(path.absolute()), source)}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{what}: {path} is no Python file; name a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickling look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the file is the user's; its error is re-raised as ours
        del sys.modules[module_name]
        raise ConfigError(_broken(what, error, path)) from error
    return Plugin(name, _attribute(module, attribute, what, file), file, digest(source))


def _source(kind: Kind, name: str) -> str:
    """Return the text of the file of a plug-in named `path.py:Name`."""
    path, what = Path(name.rpartition(":")[0]), f"{kind.what} {name!r}"
    try:
        return read_text(path, _MOST_BYTES)
    except FileNotFoundError:
        raise ConfigError(f"{what}: there is no file {path}; {_near_file(path)}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{what}: cannot read {path} ({error}); check the path") from error


def _from_module(name: str, target: str, what: str) -> Plugin:
    module_name, _, attribute = target.partition(":")
    folder = _folder(module_name)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(f"{what}: there is no module {error.name!r}; {_near_module(error.name)}") from error
        raise ConfigError(_broken(what, error, folder)) from error
    value = _attribute(module, attribute, what, f"module {module_name}")
    files = _files_of(value, module)
    texts = [file.read_bytes().decode("utf-8", "replace") for file in files]
    return Plugin(name, value, str(files[-1]) if files else module_name, digest(*texts))


def _files_of(value: Any, module: ModuleType) -> list[Path]:
    """Return the file of a module, and the one where a class or function in it comes from, if that is another."""
    is_code = inspect.isclass(value) or inspect.isroutine(value)
    home = sys.modules.get(getattr(value, "__module__", None) or "", module) if is_code else module
    files = dict.fromkeys(getattr(one, "__file__", None) for one in (module, home))
    return [Path(file) for file in files if file and Path(file).is_file()]


def _broken(what: str, error: BaseException, own: str | Path) -> str:
    reason = f"{type(error).__name__}: {error}"
    return f"{what}: {raised_at(error, own)} cannot be imported ({reason}); mend the file"


def _attribute(module: ModuleType, path: str, what: str, where: str) -> Any:
    """Return what `path`, names with dots between, stands for in a module."""
    value: Any = module
    for name in path.split("."):
        if not hasattr(value, name):
            raise ConfigError(f"{what}: {where} has no {name!r}; {nearest(name, _public(value, module))}")
        value = getattr(value, name)
    return value


def _public(value: Any, module: ModuleType) -> list[str]:
    """Return the names in `value` that are meant to be used: no modules, and nothing imported from elsewhere."""
    return [
        name
        for name, one in vars(value).items()
        if not name.startswith("_")
        and not inspect.ismodule(one)
        and getattr(one, "__module__", module.__name__) == module.__name__
    ]


def _folder(module_name: str) -> str:
    """Return the folder or file of the top-level package of a module, without importing it; "" = not found."""
    try:
        spec = importlib.util.find_spec(module_name.partition(".")[0])
    except (ImportError, ValueError):
        return ""
    if spec is None:
        return ""
    if spec.submodule_search_locations:
        return next(iter(spec.submodule_search_locations))
    return spec.origin or ""


def _near_file(path: Path) -> str:
    try:
        others = [other.name for other in path.parent.iterdir() if other.suffix == ".py"]
    except OSError:
        return f"there is no folder {path.parent} either; check the path"
    return nearest(path.name, others) if others else "check the path"


def _near_module(name: str | None) -> str:
    """Return which modules are near, and how to name a file."""
    parent, _, last = (name or "").rpartition(".")
    folders = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    known = {module.name for module in pkgutil.iter_modules(folders)}
    hint = nearest(last, known)
    return f"{hint.rstrip('?.')}{'?' if hint.endswith('?') else '.'} A file is named as path.py:Name"
