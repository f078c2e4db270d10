"""Commands of the command line: what they refuse, and options that may also stand in files.

See promptopt.settings_file for the files.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from promptopt.errors import ConfigError

if TYPE_CHECKING:
    from promptopt.settings_file import Said


USUAL = "promptopt.toml"
# Options that exclude each other: where a nearer place has one, it stands in for the other of a farther place.
_RIVALS = {"auto": "budget-calls", "budget-calls": "auto"}


class Command(TyperCommand):
    """Refuses an option that is given twice, and names all that is missing at once."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of a command line.

        Raises:
            ConfigError: an option that has one value stands twice, or a number is none.
        """
        if ctx.resilient_parsing or "--help" in args:
            return super().parse_args(ctx, args)
        given, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for param in order:
            is_single = not param.multiple and not getattr(param, "is_flag", False)
            if is_single and order.count(param) > 1:
                raise ConfigError(f"{param.opts[0]} stands {order.count(param)} times; give it once")
        named = [param for param in self.params if param.required and given.get(param.name) is None]
        missing = [_flag(param) for param in named if ctx.lookup_default(param.name) is None]
        if len(missing) > 1:
            ctx.fail(f"Missing {', '.join(missing)}.")
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            wrong, wanted = error.param, _number_wanted(error.message)
            if wrong is None or not wanted or given.get(wrong.name) is None:
                raise
            raise ConfigError(f"{wrong.opts[0]} is {given[wrong.name]!r}; {wanted}") from error


class Configured(Command):
    """Takes the options that the command line does not give from settings files and the front matter."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return the context in which the options of files are defaults.

        Raises:
            ConfigError: a file cannot be read, has an unknown key, or a value that its option does not take.
        """
        if extra.get("resilient_parsing") or "--help" in args:
            return super().make_context(info_name, args, parent, **extra)
        draft = super().make_context(info_name, list(args), parent, resilient_parsing=True)
        typed = [key for key in _RIVALS if draft.params.get(key.replace("-", "_")) is not None]
        said = self._said(info_name or "", draft.params.get("config"), draft.params.get("prompt_file"))
        said = _beneath(said, typed)
        self._check_leave(draft, said)
        defaults = {}
        for key, one in said.items():
            param = self._params[key]
            if param.multiple:
                given = draft.params.get(param.name) or ()
                args = [*_words(f"--{key}", one, {_name(text) for text in given}), *args]
            else:
                defaults[param.name] = self._checked(draft, key, one)
        context = super().make_context(info_name, args, parent, default_map=defaults, **extra)
        usual = next((one.source for one in said.values() if one.source == USUAL), None)
        if usual and not any(context.params.get(name) for name in ("quiet", "as_json")):
            sys.stderr.write(f"options from {usual}\n")
        return context

    @property
    def _params(self) -> dict[str, Any]:
        """The command's parameters by the key that they have in files."""
        options = {opt.removeprefix("--"): param for param in self.params for opt in param.opts}
        return {name.replace("_", "-"): param for name, param in options.items() if name != "help"}

    def _said(self, command: str, config: Path | None, prompt_file: Path | None) -> dict[str, Said]:
        """Return what files say of this command's options; the nearest file wins."""
        from promptopt import settings_file

        keys = [key for key in self._params if key != "config"]
        repeated = [key for key in keys if getattr(self._params[key], "multiple", False)]
        usual = Path(USUAL)
        far = settings_file.read(usual, command, keys, repeated) if config is None and usual.is_file() else {}
        near = settings_file.read(config, command, keys, repeated) if config is not None else {}
        named = next((said["prompt-file"].value for said in (near, far) if "prompt-file" in said), None)
        prompt_file = prompt_file or (Path(str(named)) if named else None)
        if prompt_file is None:
            return far | near
        middle, data_keys = settings_file.front_matter(prompt_file, keys, repeated)
        far = {key: one for key, one in far.items() if key not in data_keys}
        return _beneath(_beneath(far, middle) | middle, near) | near

    def _check_leave(self, draft: Any, said: Mapping[str, Said]) -> None:
        """Raise ConfigError if a file that the command line does not name asks for what the user alone may."""
        from promptopt import settings_file

        typed = {key for key, param in self._params.items() if _is_typed(draft, param)}
        used = {key: one for key, one in said.items() if key not in typed}
        settings_file.check_leave(used, draft.params.get("config"))

    def _checked(self, context: Any, key: str, said: Said) -> Any:
        """Return a file's value if the option takes it."""
        param = self._params[key]
        is_switch = getattr(param, "is_flag", False)
        try:
            if is_switch and said.value not in (True, False, "true", "false"):
                raise ConfigError(f"{said.source}: {key} is a switch; write true or false")
            if isinstance(said.value, bool) and not is_switch:
                raise ConfigError(f"{said.source}: {key} needs a value, not {str(said.value).lower()}")
            value = {"true": True, "false": False}.get(str(said.value).lower()) if is_switch else said.value
            param.process_value(context, value)
        except typer.BadParameter as error:
            wanted = _number_wanted(error.message)
            reason = f" is {said.value}; {wanted}" if wanted else f": {error.message}"
            raise ConfigError(f"{said.source}: {key}{reason}") from error
        return value


def _beneath(far: Mapping[str, Said], near: Iterable[str]) -> dict[str, Said]:
    """Return what a farther place says, without the rivals of the options that a nearer one has."""
    replaced = {_RIVALS[key] for key in near if key in _RIVALS}
    return {key: one for key, one in far.items() if key not in replaced}


def _is_typed(context: Any, param: Any) -> bool:
    """Return whether the command line gives a parameter."""
    source = context.get_parameter_source(param.name)
    return source is not None and source.name == "COMMANDLINE"


def _flag(param: Any) -> str:
    """Return how a parameter is written: its option, or the name of its argument."""
    name = str(param.opts[0])
    return name if name.startswith("-") else name.upper()


def _number_wanted(message: str) -> str:
    """Return what to write instead, if the message of the parser says that a value is no number; else ""."""
    if "valid integer" in message:
        return "write a whole number, such as 600"
    return "write a number, such as 2 or 0.50" if re.search("valid (number|float)", message) else ""


def _words(flag: str, said: Said, taken: set[str]) -> list[str]:
    """Return a repeated option as words of the command line, without those that stand there already."""
    values = said.value if isinstance(said.value, tuple) else (str(said.value),)
    return [word for value in values if _name(value) not in taken for word in (flag, value)]


def _name(pair: str) -> str:
    """Return the name of `name=value`, dashes as underscores."""
    return pair.partition("=")[0].strip().replace("-", "_")
