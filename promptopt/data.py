"""Data to examples: one table split by seed, or three splits as they are given; `tables` reads the rows.

The *key* of a row is its input columns folded (NFKC, lower case, whitespace), so that rows which differ in
nothing that matters count as one and never stand in two splits.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from promptopt import image, tables
from promptopt.errors import ConfigError, nearest
from promptopt.tables import SUFFIXES, Row, Table
from promptopt.types import Example, Image

Targets = Literal["all", "all or none", "any"]  # which rows must have a target

SPLITS = ("train", "dev", "test")
NAME = "data"  # what data in Python is called in messages

_LARGE = 500  # rows from which dev and test get the same share
_SHARES = {False: (0.25, 0.30), True: (0.30, 0.35)}  # train and dev; test is the rest
_N_SHOWN = 5


@dataclass(frozen=True)
class Dataset:
    """Examples in three disjoint splits.

    Args:
        train: examples for demonstrations and for errors shown to the optimizer model.
        dev: examples that drive the search.
        test: sealed examples for the proof.
        columns: the input columns, which every example has, in the order of the file.
        notes: sentences to show on screen: how the data was split, which rows were dropped.
    """

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    columns: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Item:
    """A row that has been checked: its example (id "" = none given) and its key."""

    row: Row
    example: Example
    key: tuple[str, ...]

    @property
    def folded_target(self) -> str:
        return fold("\n".join(self.example.targets))


def load(
    source: Path | Table,
    *,
    seed: int,
    target: str = "target",
    targets: Targets = "all",
    input: str | None = None,
    images: Sequence[str] = (),
    has_alternatives: bool = True,
    has_text_lists: bool = False,
) -> Dataset:
    """Return the examples of a file, a folder, or data in Python.

    Args:
        source: a data file or rows in Python, which are split by `seed`; or a folder with train, dev and test
            files or a mapping of train, dev and test to rows, which are split already.
        seed: decides which row of a single table goes into which split; at least 0.
        target: the column that holds what is right; several, with commas between, make an object of them.
        targets: which rows must have one: "all", "all or none", or "any" of them; without, a target is None.
        input: an input column that must exist; None = any.
        images: columns that name an image file or its URL; they are no input columns.
        has_alternatives: whether a target that is a list of texts or numbers means that any of them is right; else
            it is its JSON text.
        has_text_lists: whether a text that is a JSON list of texts counts as such a list.

    Raises:
        ConfigError: with file, line and remedy.
    """
    if seed < 0:
        raise ConfigError(f"seed={seed}; a seed is a whole number from 0")
    name, rows = _rows(source)
    everything = [row for split in rows.values() for row in split]
    answers = _target_columns(everything, target)
    _check_images(everything, images, answers)
    columns = _columns(everything, answers, images, is_required=targets == "all")
    if input is not None and input not in columns:
        raise ConfigError(
            f"{name}: no input column {input!r} (input columns: {', '.join(columns)}); {nearest(input, columns)}"
        )
    targets_of = partial(_targets, has_alternatives=has_alternatives, has_text_lists=has_text_lists)
    items = {
        split: [_item(row, columns, answers, images, targets_of) for row in table] for split, table in rows.items()
    }
    if targets != "any":
        _check_targets([item for split in items.values() for item in split], target, targets)
    notes: list[str] = []
    unique = {split: _drop_repeats(table, notes) for split, table in items.items()}
    if "" in unique:
        splits = _split(unique[""], name, seed, notes)
    else:
        splits = _drop_shared(unique, name, notes)
        sizes = ", ".join(f"{len(splits[split])} {split}" for split in SPLITS)
        notes.insert(0, f"{name}: {sizes} rows, split as {'they were given' if name == NAME else 'the files are'}")
    named = _with_ids(splits, name, notes)
    return Dataset(named["train"], named["dev"], named["test"], columns, tuple(notes))


def fold(text: str) -> str:
    """Return `text` in the form in which rows are compared: NFKC, case folded, whitespace folded."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _rows(source: Path | Table) -> tuple[str, dict[str, list[Row]]]:
    """Return what the data is called, and the rows of each split, or {"": rows} for a single table."""
    if isinstance(source, Path):
        return str(source), {split: tables.read(file) for split, file in _files(source).items()}
    if not isinstance(source, Mapping):
        return NAME, {"": tables.rows_of(source, NAME)}
    if set(source) != set(SPLITS):
        names = ", ".join(map(repr, source)) or "nothing"
        raise ConfigError(
            f"{NAME}: a mapping of {names}; give rows under each of 'train', 'dev' and 'test', or a list of dicts"
        )
    return NAME, {split: tables.rows_of(source[split], f"{NAME}[{split!r}]") for split in SPLITS}


def _files(path: Path) -> dict[str, Path]:
    """Return the file of each split, or {"": path} for a single file."""
    try:
        if path.is_file():
            return {"": path}
        if not path.is_dir():
            raise ConfigError(
                f"{path}: no such file or folder; name a file in {', '.join(SUFFIXES)}, or a folder with "
                "train, dev and test files"
            )
        present = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    files: dict[str, Path] = {}
    for split in SPLITS:
        found = [f"{split}{suffix}" for suffix in SUFFIXES if f"{split}{suffix}" in present]
        if not found:
            here = ", ".join(present[:8]) or "nothing"
            raise ConfigError(
                f"{path}: no {split}.jsonl (nor {', '.join(SUFFIXES[1:])}; the folder holds {here}); add it, "
                "or name one data file, which is then split by seed"
            )
        if len(found) > 1:
            raise ConfigError(f"{path}: both {found[0]} and {found[1]}; keep one file for each split")
        files[split] = path / found[0]
    return files


def _target_columns(rows: Sequence[Row], target: str) -> tuple[str, ...]:
    """Return the columns that `target` names: one, or several with commas between."""
    name = unicodedata.normalize("NFC", target.strip())
    if "," not in name or any(name in row.values for row in rows):
        return (name,)
    names = tuple(part.strip() for part in name.split(","))
    if "" in names or len(set(names)) < len(names):
        raise ConfigError(f"--target {target}: name each column once, with a comma between two: --target a,b")
    return names


def _check_images(rows: Sequence[Row], images: Sequence[str], answers: Sequence[str]) -> None:
    """Raise ConfigError if an image column is none of the data's, or is a target."""
    columns = list(dict.fromkeys(name for row in rows for name in row.values)) if images else []
    for name in images:
        if name not in columns:
            known = ", ".join(columns)
            raise ConfigError(f"--image {name}: no such column (columns: {known}); {nearest(name, columns)}")
        if name in answers:
            raise ConfigError(f"--image {name}: is the target column; name another one with --target")


def _columns(
    rows: Sequence[Row], answers: Sequence[str], images: Sequence[str], *, is_required: bool
) -> tuple[str, ...]:
    """Return the input columns: every column but id, targets and images whose values are scalars."""
    owners: dict[str, Row] = {}
    nested: dict[str, bool] = {}
    for row in rows:
        for name, value in row.values.items():
            owners.setdefault(name, row)
            if value is None or name in ("id", *answers, *images):
                continue
            is_nested = _is_nested(value)
            if nested.setdefault(name, is_nested) != is_nested:
                was = "a list or object" if nested[name] else "text"
                raise row.error(
                    f"column {name!r} is {'a list or object' if is_nested else 'text'} here and "
                    f"{was} in other rows; write it alike everywhere"
                )
    first = rows[0]
    lost = next((name for name in answers if name not in owners), None)
    if lost is not None and (is_required or lost != "target"):
        raise ConfigError(
            f"{first.source}: no target column {lost!r} (columns: {', '.join(owners)}); "
            f"name the right one with --target; {nearest(lost, owners)}"
        )
    inputs = tuple(
        name for name in owners if name not in ("id", *answers, *images) and not nested.get(name, False)
    )
    if not inputs and not images:
        raise first.error(f"no input column beside {', '.join(map(repr, answers))}; add one")
    for row in rows:
        for name in (*inputs, *(answers if is_required else ())):
            if name not in row.values:
                owner = owners[name]
                raise row.error(
                    f"no column {name!r}, which {Path(owner.place).name} has; give every row the same columns"
                )
    return inputs


def _is_nested(value: object) -> bool:
    """Return whether a value is a list, an object or bytes: no text."""
    return value is not None and not isinstance(value, str)


def _item(
    row: Row,
    columns: Sequence[str],
    answers: Sequence[str],
    images: Sequence[str],
    targets_of: Callable[[Row, Sequence[str]], tuple[str, ...]],
) -> _Item:
    inputs = {name: str(row.values[name] or "") for name in columns}
    try:
        right = targets_of(row, answers)
    except ValueError as error:
        raise row.error(f"the target cannot be written as JSON ({error}); correct it") from error
    given = row.values.get("id") if "id" not in answers else None
    if _is_nested(given):
        raise row.error("id is a list or object; write a text or a number")
    shown = _images(row, images)
    if not columns and not shown:
        raise row.error(f"has neither text nor an image ({', '.join(images)}); give it one, or remove the row")
    example = Example(str(given or ""), inputs, right[0] if right else None, right[1:], shown)
    key = (*(fold(value) for value in inputs.values()), *(picture.identity for picture in shown))
    return _Item(row, example, key)


def _images(row: Row, columns: Sequence[str]) -> tuple[Image, ...]:
    """Return the images that a row names; an empty cell has none, a list of texts has several."""
    found = []
    for column in columns:
        value = row.values.get(column)
        cells = value if isinstance(value, list) else [value]
        for cell in cells:
            if cell is not None and not isinstance(cell, str):
                raise row.error(f"image column {column!r} holds a {type(cell).__name__}; write a path or a URL")
            try:
                found += [image.load(cell.strip(), row.folder)] if cell and cell.strip() else []
            except ConfigError as error:
                raise row.error(str(error)) from error
    return tuple(found)


def _targets(row: Row, answers: Sequence[str], *, has_alternatives: bool, has_text_lists: bool) -> tuple[str, ...]:
    """Return all that is right for a row, the target first; () = nothing is said."""
    if len(answers) > 1:
        text = tables.as_object(row, answers)
        return () if text is None else (text,)
    wanted = row.values.get(answers[0])
    if _is_nested(wanted):
        several = tables.as_alternatives(wanted) if has_alternatives else None
        return (tables.as_json(wanted),) if several is None else several
    if wanted is None or not str(wanted).strip():
        return ()
    return (tables.text_list(str(wanted)) if has_text_lists else None) or (str(wanted),)


def _check_targets(items: Sequence[_Item], target: str, targets: Targets) -> None:
    """Raise ConfigError with the first row that lacks a target it must have."""
    missing = [item.row for item in items if item.example.target is None]
    if not missing or (targets == "all or none" and len(missing) == len(items)):
        return
    n_filled = len(items) - len(missing)
    aside = f"; {n_filled} rows have one: to leave all of them aside, take --metric none" if n_filled else ""
    raise missing[0].error(f"target {target!r} is empty; fill it in, or remove the row{aside}")


def _dropped(items: Sequence[_Item], firsts: Mapping[tuple[str, ...], _Item], what: str) -> str:
    n_other = sum(item.folded_target != firsts[item.key].folded_target for item in items)
    others = f"; {n_other} of them with another target than the row that was kept" if n_other else ""
    verb = "was" if len(items) == 1 else "were"
    names = ", ".join(item.example.id or item.row.name for item in items[:_N_SHOWN])
    more = ", ..." if len(items) > _N_SHOWN else ""
    return f"{len(items)} {what} {verb} dropped ({names}{more}){others}"


def _drop_repeats(items: Sequence[_Item], notes: list[str]) -> list[_Item]:
    firsts: dict[tuple[str, ...], _Item] = {}
    repeats = [item for item in items if firsts.setdefault(item.key, item) is not item]
    if repeats:
        notes.append(f"{repeats[0].row.source}: " + _dropped(repeats, firsts, "repeated row(s)"))
    return list(firsts.values())


def _drop_shared(splits: Mapping[str, list[_Item]], source: str, notes: list[str]) -> dict[str, list[_Item]]:
    """Drop rows that stand in two splits: test keeps them before dev, and dev before train."""
    seen: dict[tuple[str, ...], _Item] = {}
    result: dict[str, list[_Item]] = {}
    for name in reversed(SPLITS):
        shared = [item for item in splits[name] if item.key in seen]
        result[name] = [item for item in splits[name] if item.key not in seen]
        if shared:
            later = "dev or test" if name == "train" else "test"
            notes.append(f"{source}: " + _dropped(shared, seen, f"row(s) of {name} that also stand in {later}"))
        if not result[name]:
            raise ConfigError(
                f"{source}: no row of {name} is left, as all of them also stand in other splits; "
                f"give {name} rows of its own"
            )
        seen.update((item.key, item) for item in result[name])
    return result


def _split(items: Sequence[_Item], source: str, seed: int, notes: list[str]) -> dict[str, list[_Item]]:
    n = len(items)
    if n < len(SPLITS):
        raise ConfigError(f"{source}: {n} different row(s); each of train, dev, test needs one: add rows")
    train, dev = (max(1, round(share * n)) for share in _SHARES[n >= _LARGE])
    order = np.random.default_rng(seed).permutation(n)
    parts = (order[:train], order[train : train + dev], order[train + dev :])
    notes.insert(
        0, f"{source}: {n} rows split by seed {seed} into {train} train, {dev} dev, {n - train - dev} test"
    )
    return {name: [items[i] for i in part] for name, part in zip(SPLITS, parts, strict=True)}


def _with_ids(
    splits: Mapping[str, Sequence[_Item]], source: str, notes: list[str]
) -> dict[str, tuple[Example, ...]]:
    """Return the examples with ids that are unique over all splits."""
    lines = {name: [f"{name}-{item.row.number}" for item in items] for name, items in splits.items()}
    own = {
        name: [item.example.id or line for item, line in zip(items, lines[name], strict=True)]
        for name, items in splits.items()
    }
    prefixed = {name: [f"{name}-{text}" for text in ids] for name, ids in own.items()}
    ids = next(ids for ids in (own, prefixed, lines) if ids is lines or _are_unique(ids))
    if ids is not own:
        how = "the split before them" if ids is prefixed else "split and line instead"
        notes.append(f"{source}: ids stand twice; rows are named with {how}")
    return {
        name: tuple(replace(item.example, id=text) for item, text in zip(items, ids[name], strict=True))
        for name, items in splits.items()
    }


def _are_unique(ids: Mapping[str, Sequence[str]]) -> bool:
    every = [text for split in ids.values() for text in split]
    return len(set(every)) == len(every)
