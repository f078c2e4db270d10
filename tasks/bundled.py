"""The bundled tasks: one folder each, with data, a plain initial prompt and a README."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from promptopt import promptfile
from promptopt.errors import ConfigError, nearest

SPLITS = ("train", "dev", "test")
PROMPT = "prompt.md"

_HERE = Path(__file__).parent
_LICENCE = re.compile(r"^Licence: (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class BundledTask:
    """What a bundled task is; `sizes` are rows of train, dev and test."""

    name: str
    description: str
    metric: str
    licence: str
    sizes: Mapping[str, int] = field(hash=False)


def names() -> tuple[str, ...]:
    """Return the names of the bundled tasks, sorted."""
    return tuple(sorted(prompt.parent.name for prompt in _HERE.glob(f"*/{PROMPT}")))


def folder(name: str) -> Path:
    """Return the folder of the bundled task `name`: train, dev, test .jsonl and prompt.md.

    Raises:
        ConfigError: there is no such task.
    """
    if name not in names():
        raise ConfigError(f"no bundled task {name!r}; {nearest(name, names())}")
    return _HERE / name


def describe(name: str) -> BundledTask:
    """Return name, description, metric, licence and sizes of the bundled task `name`.

    Raises:
        ConfigError: there is no such task.
    """
    path = folder(name)
    settings = promptfile.read(path / PROMPT).settings
    licence = _LICENCE.search((path / "README.md").read_text(encoding="utf-8"))
    sizes = {split: _n_rows(path / f"{split}.jsonl") for split in SPLITS}
    return BundledTask(
        name=name,
        description=settings.get("description", ""),
        metric=settings.get("metric", "auto"),
        licence=licence.group(1) if licence else "not stated",
        sizes=sizes,
    )


def _n_rows(path: Path) -> int:
    return sum(1 for line in path.read_text(encoding="utf-8").split("\n") if line.strip())
