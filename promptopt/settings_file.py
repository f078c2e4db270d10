"""Options of a command that stand in a settings file (`promptopt.toml`) or in a prompt's front matter.

Keys are the command line's options without their dashes in front: `budget-usd`, `data`; `prompt-file` is the
prompt. Options that may be repeated are lists or tables: `[set]`, `[set-model.optimizer]`. A table named after a
command, `[evaluate]`, holds for it alone. What stands on the command line wins, then a file that `--config` names,
then the front matter, then `promptopt.toml` in the working folder. Plug-ins that are files or modules are code:
none but the command line and a file that `--config` names can have them run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptopt import plugin, promptfile
from promptopt.address import is_local
from promptopt.decoding import UnreadableFile, read_text
from promptopt.errors import ConfigError, nearest
from promptopt.secret import masked

# What a run writes into its config.toml besides options.
RECORD = "run"
COMMANDS = ("optimize", "evaluate")
_MOST_BYTES = 1_000_000
# Values that may name files: relative ones are looked for beside the settings file.
_PATHS = ("prompt-file", "data", "metric", "optimizer")
# Values that may name a file or module of code.
_CODE = ("data", "metric", "optimizer")


@dataclass(frozen=True)
class Said:
    """A value of an option, and where it stands.

    Args:
        value: text, or a list of texts where the option may be repeated, or whether a switch is on.
        source: the file.
    """

    value: str | bool | tuple[str, ...]
    source: str


def read(path: Path, command: str, keys: Sequence[str], repeated: Sequence[str]) -> dict[str, Said]:
    """Return what a settings file says for a command, by key.

    Args:
        keys: the command's own.
        repeated: those of its keys that may be given more than once.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or has a key that no command knows.
    """
    table = _load(path)
    for key in (*COMMANDS, RECORD):
        if not isinstance(table.get(key, {}), dict):
            kind = "a command; write its options into" if key in COMMANDS else "the record of a run, which is"
            raise ConfigError(f"{path}: {key} is {kind} a table [{key}]")
    table.pop(RECORD, None)
    pairs = (*table.items(), *table.get(command, {}).items())
    own = {key.replace("_", "-"): value for key, value in pairs if key not in COMMANDS}
    for other in COMMANDS:
        _check_keys(path, table.get(other, {}), keys if other == command else promptfile.OPTION_KEYS)
    _check_keys(path, [key for key in table if key not in COMMANDS], (*promptfile.OPTION_KEYS, *keys))
    return {
        key: Said(_value(path, key, value, is_repeated=key in repeated), str(path))
        for key, value in own.items()
        if key in keys
    }


def front_matter(path: Path, keys: Sequence[str], repeated: Sequence[str]) -> tuple[dict[str, Said], set[str]]:
    """Return the options in a prompt file's front matter, and which data options stand there as well."""
    if not os.path.isfile(path):
        return {}, set()  # the command itself says what is wrong
    file = promptfile.read(path)
    said = {
        key: Said(_texts(value) if key in repeated else value, str(path))
        for key, value in file.options.items()
        if key in keys
    }
    return said, set(file.settings)


def check_leave(said: Mapping[str, Said], config: Path | None) -> None:
    """Check that no file but the one that `--config` names has code run, or calls sent to a server far away.

    Args:
        said: what files say of options that the command line does not give.

    Raises:
        ConfigError: one does; a prompt file, and what lies in a folder, may be a stranger's.
    """
    for key, one in said.items():
        if one.source == str(config):
            continue
        if key in _CODE and isinstance(one.value, str):
            check_no_code(key, one.value, one.source)
        for flag, address in _addresses(key, one.value):
            _check_near(flag, address, one.source)


def _addresses(key: str, value: str | bool | tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield the addresses of servers that an option names, each with the option as it is written."""
    if key == "api-base" and isinstance(value, str):
        yield "--api-base", value
    for pair in value if key == "set-model" and isinstance(value, tuple) else ():
        name, _, address = pair.partition("=")
        if name.strip().replace("-", "_").endswith(".api_base"):
            yield f"--set-model {name.strip()}=", address.strip().strip('"')


def _check_near(flag: str, address: str, source: str) -> None:
    """Raise ConfigError if an address is far away: neither of this machine nor of a private network."""
    try:
        is_near = is_local(address)
    except ValueError:  # no address at all, which is said elsewhere
        return
    if not is_near:
        raise ConfigError(
            f"{source}: {masked(address)!r} would get the data and a key, and is no server of this machine or "
            f"network; write {flag} on the command line, or --config FILE with a settings file of your own"
        )


def check_no_code(key: str, name: str, source: str) -> None:
    """Raise ConfigError if the value `name` of an option has code run; `source` is the file that holds it."""
    from promptopt.tasks import metrics

    is_code = metrics.is_code(name) if key == "metric" else plugin.is_code(name)
    if is_code and not (key == "data" and os.path.exists(name)):
        raise ConfigError(
            f"{source}: {key} {name!r} is code, which runs only where the command line names it: write --{key} "
            f"{shlex.quote(name)} there, or --config FILE with a settings file of your own"
        )


def _texts(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path, _MOST_BYTES, "utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"--config {path}: no such file; `promptopt init` writes one to start from") from None
    except IsADirectoryError:
        raise ConfigError(f"--config {path} is a folder; name the file in it, such as promptopt.toml") from None
    except UnreadableFile as error:
        raise ConfigError(f"{path}: {error}; name a settings file, such as promptopt.toml") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); save it as UTF-8 text") from error
    except (ValueError, RecursionError) as error:  # a whole number may be too long to be read
        raise ConfigError(f"{path}: is not TOML ({error}); write lines like `budget-calls = 600`") from error


def _check_keys(path: Path, names: Iterable[str], keys: Sequence[str]) -> None:
    for key in names:
        if key.replace("_", "-") not in keys:
            raise ConfigError(f"{path}: unknown key {key!r}; {_hint(key, keys)}")


def _hint(key: str, keys: Sequence[str]) -> str:
    """Return what to write instead of a key that a settings file cannot have here."""
    name = key.replace("_", "-")
    if name in promptfile.OPTION_KEYS:
        return "it belongs to another command; write it at the top of the file, or into that command's table"
    if re.search(r"(^|-)(key|token|secret|password)$", name):
        return "keys are read from the environment alone, so that no file holds them"
    return nearest(name, (*keys, *COMMANDS))


def _value(path: Path, key: str, value: Any, *, is_repeated: bool) -> str | bool | tuple[str, ...]:
    """Return a TOML value as the command line would have it."""
    if is_repeated:
        parts = value if isinstance(value, list) else [value]
        try:
            return tuple(text for part in parts for text in _pairs(path, key, part))
        except RecursionError as error:
            raise ConfigError(
                f"{path}: {key} has tables too deep within tables; write names and values"
            ) from error
    if isinstance(value, bool):
        return value
    if isinstance(value, (str, int, float)):
        return _beside(path, _text(path, key, value)) if key in _PATHS else _text(path, key, value)
    raise ConfigError(f"{path}: {key} needs one value, not a {type(value).__name__}")


def _pairs(path: Path, key: str, value: Any, prefix: str = "") -> Iterator[str]:
    """Yield `name=value` for each entry of a table, with dots between the names of tables in tables."""
    if not isinstance(value, dict):
        if not prefix and not isinstance(value, str):
            raise ConfigError(f"{path}: {key} needs texts or a table [{key}], not a {type(value).__name__}")
        text = _text(path, f"{key} {prefix}", value)
        yield f"{prefix}={text}" if prefix else text
        return
    for name, inner in value.items():
        yield from _pairs(path, key, inner, f"{prefix}.{name}" if prefix else name)


def _text(path: Path, place: str, value: Any) -> str:
    """Return a TOML value as text: itself, or JSON; `place` names it in messages."""
    try:
        return value if isinstance(value, str) else json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:  # a date; a whole number of thousands of digits
        raise ConfigError(f"{path}: {place} cannot be read ({error}); write it as text, in quotes") from error


def _beside(path: Path, value: str) -> str:
    """Return a relative path that exists beside the settings file as a path from here; else the text itself."""
    judge = "judge:" if value.startswith("judge:") else ""  # the metric of a rubric, whose file follows
    file, colon, rest = value.removeprefix(judge).partition(":")
    beside = path.parent / file
    is_here = path.parent == Path() or Path(file).is_absolute()
    return value if is_here or not file or not os.path.exists(beside) else f"{judge}{beside}{colon}{rest}"
