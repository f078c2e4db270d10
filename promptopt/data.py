"""Data files to examples: JSONL or CSV, one file split by seed, or a folder with three splits.

A *row* is one line of a file; its *key* is its input columns folded (NFKC, lower case, whitespace),
so that rows which differ in nothing that matters count as one and never stand in two splits.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from promptopt.errors import ConfigError, nearest
from promptopt.types import Example

Targets = Literal["all", "all or none", "any"]  # which rows must have a target

SPLITS = ("train", "dev", "test")
SUFFIXES = (".jsonl", ".csv")
MAX_FIELD = 10_000_000

_LARGE = 500  # rows from which dev and test get the same share
_SHARES = {False: (0.25, 0.30), True: (0.30, 0.35)}  # train and dev; test is the rest
_SURROGATE = re.compile("[\ud800-\udfff]")
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
class _Row:
    """One row; `values` holds text, None (empty or null), or a list or object of JSON."""

    path: Path
    line: int
    values: Mapping[str, object]

    def error(self, message: str) -> ConfigError:
        return ConfigError(f"{self.path}:{self.line}: {message}")


@dataclass(frozen=True)
class _Item:
    """A row that has been checked: its example (id "" = none given) and its key."""

    row: _Row
    example: Example
    key: tuple[str, ...]

    @property
    def folded_target(self) -> str:
        return fold(self.example.target or "")


def load(
    path: Path, *, seed: int, target: str = "target", targets: Targets = "all", input: str | None = None
) -> Dataset:
    """Return the examples in the file or folder at `path`.

    Args:
        path: a .jsonl or .csv file, which is split by `seed`, or a folder with train, dev and test files.
        seed: decides which row of a single file goes into which split; at least 0.
        target: the column that holds what is right.
        targets: which rows must have one: "all", "all or none", or "any" of them; without, a target is None.
        input: an input column that must exist; None = any.

    Raises:
        ConfigError: with file, line and remedy.
    """
    if seed < 0:
        raise ConfigError(f"seed={seed}; a seed is a whole number from 0")
    files = _files(path)
    rows = {name: _read(file) for name, file in files.items()}
    everything = [row for split in rows.values() for row in split]
    columns = _columns(everything, target, is_required=targets == "all")
    if input is not None and input not in columns:
        raise ConfigError(
            f"{path}: no input column {input!r} (input columns: {', '.join(columns)}); {nearest(input, columns)}"
        )
    items = {name: [_item(row, columns, target) for row in split] for name, split in rows.items()}
    if targets != "any":
        _check_targets([item for split in items.values() for item in split], target, targets)
    notes: list[str] = []
    unique = {name: _drop_repeats(split, files[name], notes) for name, split in items.items()}
    if path.is_dir():
        splits = _drop_shared(unique, path, notes)
        sizes = ", ".join(f"{len(splits[name])} {name}" for name in SPLITS)
        notes.insert(0, f"{path}: {sizes} rows, split as the files are")
    else:
        splits = _split(unique[""], path, seed, notes)
    named = _with_ids(splits, path, notes)
    return Dataset(named["train"], named["dev"], named["test"], columns, tuple(notes))


def fold(text: str) -> str:
    """Return `text` in the form in which rows are compared: NFKC, case folded, whitespace folded."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _files(path: Path) -> dict[str, Path]:
    """Return the file of each split, or {"": path} for a single file."""
    try:
        if path.is_file():
            return {"": path}
        if not path.is_dir():
            raise ConfigError(
                f"{path}: no such file or folder; name a .jsonl or .csv file, or a folder with "
                "train, dev and test files"
            )
        present = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error}); check the path and its permissions") from error
    files: dict[str, Path] = {}
    for name in SPLITS:
        found = [f"{name}{suffix}" for suffix in SUFFIXES if f"{name}{suffix}" in present]
        if not found:
            here = ", ".join(present[:8]) or "nothing"
            raise ConfigError(
                f"{path}: no {name}.jsonl or {name}.csv (the folder holds {here}); add it, "
                "or name one data file, which is then split by seed"
            )
        if len(found) > 1:
            raise ConfigError(f"{path}: both {found[0]} and {found[1]}; keep one file for each split")
        files[name] = path / found[0]
    return files


def _read(path: Path) -> list[_Row]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(
            f"{path}: files in {suffix or 'nothing'!r} are not supported; use {' or '.join(SUFFIXES)} "
            "with one JSON object or one CSV record a row. More formats come later"
        )
    text = _text(path)
    rows = list(_read_csv(path, text) if suffix == ".csv" else _read_jsonl(path, text))
    if not rows:
        raise ConfigError(f"{path}: holds no rows; add examples, one a line")
    return rows


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error}); check the path and its permissions") from error
    if b"\x00" in raw:
        line = raw.count(b"\n", 0, raw.index(b"\x00")) + 1
        raise ConfigError(f"{path}:{line}: holds NUL bytes, so it is binary or UTF-16; save it as UTF-8 text")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{raw[error.start]:02x} at position {error.start}"
        raise ConfigError(f"{path}:{line}: {byte} is not UTF-8; save the file as UTF-8") from error


def _read_jsonl(path: Path, text: str) -> Iterator[_Row]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            record = json.loads(content, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            message = f"not JSON ({error.msg}); write one complete object a line"
            raise ConfigError(f"{path}:{line}:{error.colno}: {message}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}:{line}: cannot be read ({error}); correct the line") from error
        if not isinstance(record, dict):
            shape = '{"input": "...", "target": "..."}'
            raise ConfigError(f"{path}:{line}: is a JSON {_kind(record)}; write an object such as {shape}")
        row = _Row(path, line, {key: _as_text(value) for key, value in record.items()})
        if _SURROGATE.search(json.dumps(record, ensure_ascii=False)):
            raise row.error("holds half a surrogate pair (\\ud800 to \\udfff); write the whole character")
        yield row


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    twice = [name for name, n in Counter(name for name, _ in pairs).items() if n > 1]
    if twice:
        raise ValueError(f"key {twice[0]!r} stands twice")
    return dict(pairs)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON; write a number, text or null")


def _kind(value: object) -> str:
    return {list: "list", str: "text", bool: "boolean", type(None): "null"}.get(type(value), "number")


def _as_text(value: object) -> object:
    """Return a scalar of JSON as text; null stays None, lists and objects stay as they are."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value) if isinstance(value, int | float) else value


def _read_csv(path: Path, text: str) -> Iterator[_Row]:
    lines = io.StringIO(text.replace("\r\n", "\n").replace("\r", "\n"), newline="")
    header: tuple[str, ...] | None = None
    for line, cells in _records(path, lines):
        if header is None:
            header = _header(path, line, cells)
        elif len(cells) != len(header):
            names = ", ".join(header)
            raise ConfigError(
                f"{path}:{line}: {len(cells)} cells, but the header has {len(header)} ({names}); "
                'quote cells that hold a comma or a line break: "..."'
            )
        else:
            yield _Row(path, line, dict(zip(header, (cell or None for cell in cells), strict=True)))


def _records(path: Path, lines: io.StringIO) -> Iterator[tuple[int, list[str]]]:
    """Yield each CSV record that is not blank with the line it starts on."""
    reader = csv.reader(lines, strict=True)
    before = csv.field_size_limit(MAX_FIELD)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        if "field larger" in str(error):
            message = f"a cell has more than {MAX_FIELD} characters; shorten it, or close its quote"
        elif "unexpected end" in str(error):
            message = 'a quote is opened and never closed; close it, and write a quote within a cell as ""'
        else:
            message = f'broken CSV ({error}); quote the cell, and write a quote within it as ""'
        raise ConfigError(f"{path}:{line}: {message}") from error
    finally:
        csv.field_size_limit(before)


def _header(path: Path, line: int, cells: Sequence[str]) -> tuple[str, ...]:
    names = tuple(cell.strip() for cell in cells)
    if "" in names:
        i_empty = names.index("") + 1
        raise ConfigError(f"{path}:{line}: column {i_empty} has no name in the header; name every column")
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise ConfigError(f"{path}:{line}: column {twice[0]!r} stands twice in the header; rename one")
    separator = next((mark for mark in (";", "\t") if len(names) == 1 and mark in names[0]), None)
    if separator:
        raise ConfigError(f"{path}:{line}: cells are separated by {separator!r}; save the file with commas")
    return names


def _columns(rows: Sequence[_Row], target: str, *, is_required: bool) -> tuple[str, ...]:
    """Return the input columns: every column but id and target whose values are scalars."""
    owners: dict[str, _Row] = {}
    nested: dict[str, bool] = {}
    for row in rows:
        for name, value in row.values.items():
            owners.setdefault(name, row)
            if value is None or name in ("id", target):
                continue
            is_nested = isinstance(value, list | dict)
            if nested.setdefault(name, is_nested) != is_nested:
                was = "a list or object" if nested[name] else "text"
                raise row.error(
                    f"column {name!r} is {'a list or object' if is_nested else 'text'} here and "
                    f"{was} in other rows; write it alike everywhere"
                )
    first = rows[0]
    if target not in owners and (is_required or target != "target"):
        raise ConfigError(
            f"{first.path}: no target column {target!r} (columns: {', '.join(owners)}); "
            f"name the right one with --target; {nearest(target, owners)}"
        )
    inputs = tuple(name for name in owners if name not in ("id", target) and not nested.get(name, False))
    if not inputs:
        raise ConfigError(f"{first.path}:{first.line}: no input column beside {target!r}; add one")
    for row in rows:
        for name in (*inputs, *([target] if is_required else [])):
            if name not in row.values:
                owner = owners[name]
                raise row.error(
                    f"no column {name!r}, which {owner.path.name}:{owner.line} has; "
                    "give every row the same columns"
                )
    return inputs


def _item(row: _Row, columns: Sequence[str], target: str) -> _Item:
    inputs = {name: str(row.values[name] or "") for name in columns}
    wanted = row.values.get(target)
    if isinstance(wanted, list | dict):
        wanted = json.dumps(wanted, ensure_ascii=False, sort_keys=True)
    text = str(wanted) if wanted is not None and str(wanted).strip() else None
    given = row.values.get("id") if target != "id" else None
    if isinstance(given, list | dict):
        raise row.error("id is a list or object; write a text or a number")
    example = Example(str(given or ""), inputs, text)
    return _Item(row, example, tuple(fold(value) for value in inputs.values()))


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
    names = ", ".join(item.example.id or f"line {item.row.line}" for item in items[:_N_SHOWN])
    more = ", ..." if len(items) > _N_SHOWN else ""
    return f"{len(items)} {what} {verb} dropped ({names}{more}){others}"


def _drop_repeats(items: Sequence[_Item], path: Path, notes: list[str]) -> list[_Item]:
    firsts: dict[tuple[str, ...], _Item] = {}
    repeats = [item for item in items if firsts.setdefault(item.key, item) is not item]
    if repeats:
        notes.append(f"{path}: " + _dropped(repeats, firsts, "repeated row(s)"))
    return list(firsts.values())


def _drop_shared(splits: Mapping[str, list[_Item]], path: Path, notes: list[str]) -> dict[str, list[_Item]]:
    """Drop rows that stand in two splits: test keeps them before dev, and dev before train."""
    seen: dict[tuple[str, ...], _Item] = {}
    result: dict[str, list[_Item]] = {}
    for name in reversed(SPLITS):
        shared = [item for item in splits[name] if item.key in seen]
        result[name] = [item for item in splits[name] if item.key not in seen]
        if shared:
            later = "dev or test" if name == "train" else "test"
            notes.append(f"{path}: " + _dropped(shared, seen, f"row(s) of {name} that also stand in {later}"))
        if not result[name]:
            raise ConfigError(
                f"{path}: no row of {name} is left, as all of them also stand in other splits; "
                f"give {name} rows of its own"
            )
        seen.update((item.key, item) for item in result[name])
    return result


def _split(items: Sequence[_Item], path: Path, seed: int, notes: list[str]) -> dict[str, list[_Item]]:
    n = len(items)
    if n < len(SPLITS):
        raise ConfigError(f"{path}: {n} different row(s); each of train, dev, test needs one: add rows")
    train, dev = (max(1, round(share * n)) for share in _SHARES[n >= _LARGE])
    order = np.random.default_rng(seed).permutation(n)
    parts = (order[:train], order[train : train + dev], order[train + dev :])
    notes.insert(0, f"{path}: {n} rows split by seed {seed} into {train} train, {dev} dev, {n - train - dev} test")
    return {name: [items[i] for i in part] for name, part in zip(SPLITS, parts, strict=True)}


def _with_ids(
    splits: Mapping[str, Sequence[_Item]], path: Path, notes: list[str]
) -> dict[str, tuple[Example, ...]]:
    """Return the examples with ids that are unique over all splits."""
    lines = {name: [f"{name}-{item.row.line}" for item in items] for name, items in splits.items()}
    own = {
        name: [item.example.id or line for item, line in zip(items, lines[name], strict=True)]
        for name, items in splits.items()
    }
    prefixed = {name: [f"{name}-{text}" for text in ids] for name, ids in own.items()}
    ids = next(ids for ids in (own, prefixed, lines) if ids is lines or _are_unique(ids))
    if ids is not own:
        how = "the split before them" if ids is prefixed else "split and line instead"
        notes.append(f"{path}: ids stand twice; rows are named with {how}")
    return {
        name: tuple(replace(item.example, id=text) for item, text in zip(items, ids[name], strict=True))
        for name, items in splits.items()
    }


def _are_unique(ids: Mapping[str, Sequence[str]]) -> bool:
    every = [text for split in ids.values() for text in split]
    return len(set(every)) == len(every)
