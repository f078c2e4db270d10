"""Rows of data from files and from Python: JSONL, JSON, CSV, TSV, Parquet, DataFrames, lists of dicts.

Every reader gives the same: rows whose values are text, None (empty or null), or what is no text: a list,
an object, bytes.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from promptopt.decoding import UnreadableFile, decode, read_bytes, unique
from promptopt.errors import ConfigError

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
MAX_BYTES = 250_000_000  # of a file; reading takes up to ten times as much memory
MAX_FIELD = 10_000_000
MAX_ROWS = 5_000_000  # of a Parquet file, where so many may take but a few bytes

_SURROGATE = re.compile("[\ud800-\udfff]")
_LIKE_JSON = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?|true|false")  # no 007: that is a code
_SEPARATORS = (";", "\t", "|")  # looked for where commas give a header of one cell
_SEP_LINE = re.compile(r"sep=(.)\n")  # what spreadsheets put above the header to name the separator


class Frame(Protocol):
    """A DataFrame of pandas or polars, a table of pyarrow: known by its methods, never imported."""

    @property
    def columns(self) -> object:
        """The names of the columns."""
        ...


Rows: TypeAlias = Iterable[Mapping[str, object]] | Frame
Table: TypeAlias = Rows | Mapping[str, Rows]
"""Data in Python: rows, or rows by split (train, dev, test)."""


@dataclass(frozen=True)
class Row:
    """One row of data.

    Args:
        source: the file, or what the data is called in Python.
        number: the line that it starts on, or, where `has_lines` is False, its place from 1.
        values: by column: text, None (empty or null), or a value that is no text.
        typed: the same before it became text, where the format knows numbers and booleans.
    """

    source: str
    number: int
    values: Mapping[str, object]
    has_lines: bool = True
    typed: Mapping[str, object] = field(default_factory=dict, hash=False)

    @property
    def folder(self) -> Path:
        """Where files that the row names lie: beside its file, or in the working folder."""
        return Path(self.source).parent

    @property
    def name(self) -> str:
        """The row within its source, in words."""
        return f"{'line' if self.has_lines else 'row'} {self.number}"

    @property
    def place(self) -> str:
        """Where the row stands, to begin a message with."""
        return f"{self.source}:{self.number}" if self.has_lines else f"{self.source}: row {self.number}"

    def error(self, message: str) -> ConfigError:
        """Return the error that says `message` of this row."""
        return ConfigError(f"{self.place}: {message}")


def read(path: Path) -> list[Row]:
    """Return the rows of a file; its suffix says the format.

    Raises:
        ConfigError: with file, line and remedy.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        hint = "; export the sheet as CSV (UTF-8)" if suffix in (".xlsx", ".xls", ".ods") else ""
        raise ConfigError(
            f"{path}: {f'files in {suffix!r}' if suffix else 'files without a suffix'} are not supported; use "
            f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}{hint}"
        )
    try:
        raw = read_bytes(path, MAX_BYTES)
    except UnreadableFile as error:
        raise ConfigError(f"{path}: {error}; give a file with a sample of the rows") from error
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    if suffix == ".parquet":
        rows = _read_parquet(path, raw)
    else:
        text = decode(raw, path).replace("\r\n", "\n").replace("\r", "\n")
        readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".tsv": _read_csv}
        rows = list(readers[suffix](path, text))
    if not rows:
        raise ConfigError(f"{path}: holds no rows; add examples{'' if suffix == '.parquet' else ', one a line'}")
    return rows


def rows_of(data: Rows, name: str = "data") -> list[Row]:
    """Return the rows of data in Python: a DataFrame (pandas, polars), or dicts from column to value.

    Args:
        name: what messages call the data.

    Raises:
        ConfigError: it is none of these, or a value cannot become text.
    """
    records = list(_records_of(data, name))
    if not records:
        raise ConfigError(f"{name}: holds no rows; add examples")
    rows = []
    for number, record in enumerate(records, start=1):
        if not isinstance(record, Mapping):
            raise ConfigError(
                f"{name}: row {number}: is a {type(record).__name__}; give a dict from column to value"
            )
        rows.append(_row(name, number, record, has_lines=False))
    return rows


# JSON ---------------------------------------------------------------------------------------------


def _read_jsonl(path: Path, text: str) -> Iterator[Row]:
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            record = _json(path, content, line, "write one complete object a line")
            if not isinstance(record, dict):
                raise ConfigError(f"{path}:{line}: is a JSON {_kind(record)}; {_OBJECT}")
            yield _row(str(path), line, record)


def _read_json(path: Path, text: str) -> Iterator[Row]:
    if not text.strip():
        return
    value = _json(path, text, None, _json_remedy(text))
    for number, record in enumerate(_list_of(path, value), start=1):
        if not isinstance(record, dict):
            raise ConfigError(f"{path}: row {number}: is a JSON {_kind(record)}; {_OBJECT}")
        yield _row(str(path), number, record, has_lines=False)


_OBJECT = 'write an object such as {"input": "...", "target": "..."}'


def _list_of(path: Path, value: object) -> list[object]:
    """Return the list of rows: the value itself, or the one list in an object."""
    shape = 'write a list of objects, [{"input": "...", "target": "..."}, ...], or an object with one such list'
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: is a JSON {_kind(value)}; {shape}")
    lists = {name: rows for name, rows in value.items() if isinstance(rows, list)}
    if len(lists) != 1:
        found = f"{len(lists)} lists ({', '.join(list(lists)[:5])})" if lists else "no list"
        raise ConfigError(f"{path}: is an object with {found}; {shape}")
    return next(iter(lists.values()))


def _json_remedy(text: str) -> str:
    """Return what to do about a .json file that is none; JSON Lines under a wrong name is the usual case."""
    lines = [line for line in text.split("\n", 3)[:3] if line.strip()]
    is_lines = len(lines) > 1 and all(line.lstrip().startswith("{") for line in lines)
    return "it looks like one object a line: rename it to .jsonl" if is_lines else "correct the file"


def _json(path: Path, text: str, line: int | None, remedy: str) -> object:
    """Return the value that `text` is, which stands on `line` of its file; None = it is the whole file."""
    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"{path}:{line or error.lineno}:{error.colno}"
        raise ConfigError(f"{place}: not JSON ({error.msg}); {remedy}") from error
    except (ValueError, RecursionError) as error:
        place = f"{path}:{line}" if line else str(path)
        raise ConfigError(
            f"{place}: cannot be read ({error}); correct the {'line' if line else 'file'}"
        ) from error


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON; write a number, text or null")


def _kind(value: object) -> str:
    kinds = {list: "list", dict: "object", str: "text", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")


# CSV and TSV --------------------------------------------------------------------------------------


def _read_csv(path: Path, text: str) -> Iterator[Row]:
    separator, text, first = _separator(path, text)
    header: tuple[str, ...] | None = None
    for line, cells in _records(path, text, separator, first):
        if header is None:
            header = _header(path, line, cells)
        elif len(cells) != len(header):
            names = ", ".join(header)
            mark = {",": "a comma", "\t": "a tab"}.get(separator, f"a {separator!r}")
            raise ConfigError(
                f"{path}:{line}: {len(cells)} cells, but the header has {len(header)} ({names}); "
                f'quote cells that hold {mark} or a line break: "..."'
            )
        else:
            yield Row(str(path), line, dict(zip(header, (cell or None for cell in cells), strict=True)))


def _separator(path: Path, text: str) -> tuple[str, str, int]:
    """Return what separates cells, the text without a line that says so, and the number of its first line."""
    if path.suffix.lower() == ".tsv":
        return "\t", text, 1
    if said := _SEP_LINE.match(text):
        return said.group(1), text[said.end() :], 2
    # Leniently: a quoted name before another separator would be a cell that goes on behind its quote.
    line, header = next(_records(path, text, ",", 1, is_strict=False), (1, []))
    found = [mark for mark in _SEPARATORS if len(header) == 1 and mark in header[0]]
    if len(found) > 1:
        marks = " and ".join(map(repr, found))
        raise ConfigError(f"{path}:{line}: cells may be separated by {marks}; save the file with commas")
    return (found or [","])[0], text, 1


def _records(
    path: Path, text: str, separator: str, line: int, *, is_strict: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """Yield each record in which something stands, with the line that it starts on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=is_strict)
    before, first = csv.field_size_limit(MAX_FIELD), line
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                yield line, cells
            line = first + reader.line_num
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
    names = tuple(unicodedata.normalize("NFC", cell.strip()) for cell in cells)
    if "" in names:
        i_empty = names.index("") + 1
        raise ConfigError(f"{path}:{line}: column {i_empty} has no name in the header; name every column")
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise ConfigError(f"{path}:{line}: column {twice[0]!r} stands twice in the header; rename one")
    return names


# Parquet and Python -------------------------------------------------------------------------------


def _read_parquet(path: Path, raw: bytes) -> list[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            f"{path}: reading Parquet takes pyarrow; pip install 'promptopt-suite[parquet]', or save it as .jsonl"
        ) from error
    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(raw))
        _check_size(path, file.metadata)
        table = file.read()
        records = list(_records_of(table, str(path)))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = str(error).split("\n", 1)[0]
        raise ConfigError(f"{path}: is no Parquet file that can be read ({reason}); save it anew") from error
    return [_row(str(path), i, record, has_lines=False) for i, record in enumerate(records, start=1)]


def _check_size(path: Path, metadata: Any) -> None:
    """Raise ConfigError if the rows of a Parquet file, which may be packed tightly, would fill the memory."""
    sizes = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    if metadata.num_rows > MAX_ROWS or sum(sizes) > MAX_BYTES:
        raise ConfigError(
            f"{path}: has {metadata.num_rows:,} rows in {sum(sizes):,} bytes, unpacked; at most {MAX_ROWS:,} rows "
            f"and {MAX_BYTES:,} bytes are read: give a file with a sample of the rows"
        )


def _records_of(data: Rows, name: str) -> Iterable[Mapping[str, object]]:
    """Return dicts from column to value; what the data is shows in its methods."""
    kind = type(data)  # asked for methods itself: columns of pandas are attributes of the frame
    if hasattr(kind, "collect_schema") and hasattr(kind, "collect"):
        raise ConfigError(f"{name}: is a {kind.__name__}; give the frame that its .collect() returns")
    for method, columns, words in (
        ("to_dicts", "columns", ()),  # polars
        ("to_pylist", "column_names", ()),  # pyarrow
        ("to_dict", "columns", ("records",)),  # pandas
    ):
        if hasattr(kind, method) and hasattr(data, columns):
            _check_columns(getattr(data, columns), name)
            records: Iterable[Mapping[str, object]] = getattr(data, method)(*words)
            return records
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        raise ConfigError(
            f"{name}: is a {kind.__name__}; give a DataFrame, or a list of dicts from column to value"
        )
    return data


def _check_columns(columns: object, name: str) -> None:
    """Raise ConfigError if a column of a frame is not named by a text of its own."""
    names = list(columns) if isinstance(columns, Iterable) else []
    odd = next((column for column in names if not isinstance(column, str)), None)
    if odd is not None:
        raise ConfigError(f"{name}: column {odd!r} is named by a {type(odd).__name__}; name every column by text")
    twice = [column for column, n in Counter(map(str.strip, names)).items() if n > 1]
    if twice:
        raise ConfigError(f"{name}: column {twice[0]!r} stands twice; rename one")


# Values -------------------------------------------------------------------------------------------


def _row(source: str, number: int, record: Mapping[str, object], *, has_lines: bool = True) -> Row:
    row = Row(source, number, {}, has_lines)
    values: dict[str, object] = {}
    typed: dict[str, object] = {}
    for name, value in record.items():
        if not isinstance(name, str) or not name.strip():
            raise row.error(f"column {name!r} has no name; name every column by text")
        column = unicodedata.normalize("NFC", name.strip())
        try:
            values[column], typed[column] = as_cell(value), value
        except ValueError as error:
            raise row.error(f"column {name!r}: {error}") from error
    if len(values) < len(record):
        raise row.error("two columns have the same name but for spaces around it; rename one")
    if _SURROGATE.search("".join(_texts((*values, *values.values())))):
        raise row.error("holds half a surrogate pair (\\ud800 to \\udfff); write the whole character")
    return Row(source, number, values, has_lines, typed)


def as_object(row: Row, columns: Sequence[str]) -> str | None:
    """Return several columns of a row as a JSON object, empty cells as null; None if all are empty.

    Raises:
        ValueError: something in it is not of JSON.
    """
    if all(row.values.get(name) is None for name in columns):
        return None
    return as_json({name: _typed(row, name) for name in columns})


def _typed(row: Row, column: str) -> object:
    """Return a cell with its type; where a format has none, such as CSV, what JSON would read as one has it."""
    text = row.values.get(column)
    value = row.typed.get(column, text)
    if text is None:
        return None
    if column not in row.typed and _LIKE_JSON.fullmatch(str(text)):
        return json.loads(str(text))
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value


def as_alternatives(value: object) -> tuple[str, ...] | None:
    """Return the texts of a list of scalars, each once and empty ones left out; None = it is none."""
    items = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(items, list):
        return None
    cells = [as_cell(item) for item in items]
    if any(cell is not None and not isinstance(cell, str) for cell in cells):
        return None
    return tuple(dict.fromkeys(str(cell) for cell in cells if cell is not None and str(cell).strip()))


def text_list(text: str) -> tuple[str, ...] | None:
    """Return the texts of a JSON list of texts, each once; None = `text` is none, or one of them is blank."""
    if not text.lstrip().startswith("["):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not found:
        return None
    are_texts = all(isinstance(item, str) and item.strip() and not _SURROGATE.search(item) for item in found)
    return tuple(dict.fromkeys(found)) if are_texts else None


def as_cell(value: object) -> object:
    """Return a scalar as text, what stands for a missing one as None; lists, objects and bytes as they are.

    Raises:
        ValueError: the value is infinite, or of a kind that has no text.
    """
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        value = value.tolist()
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas' marks of what is missing
        return None
    if isinstance(value, list | Mapping | bytes | bytearray):
        return value
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return _number(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, str | timedelta | UUID | PurePath):
        return str(value)
    raise ValueError(f"a {type(value).__name__} has no text; convert it to text")


def _number(value: float | Decimal) -> str | None:
    """Return a number as text, whole ones without a point; None for NaN."""
    if not isinstance(value, int) and math.isnan(value):
        return None
    if not isinstance(value, int) and math.isinf(value):
        raise ValueError(f"{value} is no number to work with; write a finite number, or text")
    if -1e15 < value < 1e15 and value == int(value):
        return str(int(value))
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def as_json(value: object) -> str:
    """Return a list or an object as JSON text with sorted keys.

    Raises:
        ValueError: something in it is not of JSON.
    """
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False, default=_plain)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _plain(value: object) -> object:
    plain = value.tolist() if hasattr(value, "tolist") else as_cell(value)
    if plain is value:
        raise TypeError(f"a {type(value).__name__} is not of JSON")
    return plain


def _texts(values: Iterable[object]) -> Iterator[str]:
    """Yield every text in nested values; without recursion, since data may be nested deeply."""
    rest = list(values)
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            rest += [*value, *value.values()]
        elif isinstance(value, list):
            rest += value
