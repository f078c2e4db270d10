"""Every format gives the same rows; what real files hold is read, or refused with place and remedy."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import tomllib
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from promptopt import Budget, Result, data, optimize, tables
from promptopt.config import load_task
from promptopt.errors import ConfigError

TABLE: list[dict[str, Any]] = [
    {"id": "1", "text": 'a, "b"\nc', "n": 4.0, "ok": True, "target": "x"},
    {"id": "2", "text": "Zoë – 日本", "n": 2.5, "ok": False, "target": "y"},
    {"id": "3", "text": None, "n": None, "ok": None, "target": "x"},
]
TEXTS = [
    {"id": "1", "text": 'a, "b"\nc', "n": "4", "ok": "true", "target": "x"},
    {"id": "2", "text": "Zoë – 日本", "n": "2.5", "ok": "false", "target": "y"},
    {"id": "3", "text": None, "n": None, "ok": None, "target": "x"},
]


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


def as_csv(separator: str = ",", ends: str = "\r\n") -> str:
    lines = ["id,text,n,ok,target", '1,"a, ""b""\nc",4,true,x', "2,Zoë – 日本,2.5,false,y", "3,,,,x"]
    if separator != ",":
        lines[1] = lines[1].replace("a, ", "a@ ").replace(",", separator).replace("a@ ", "a, ")
        lines[0], lines[2], lines[3] = (line.replace(",", separator) for line in (lines[0], *lines[2:]))
    return ends.join(lines) + ends


FILES: dict[str, Callable[[], str | bytes]] = {
    "lines.jsonl": lambda: "\n".join(json.dumps(row) for row in TABLE),
    "list.json": lambda: json.dumps(TABLE, indent=2),
    "object.json": lambda: json.dumps({"version": 1, "data": TABLE}),
    "comma.csv": as_csv,
    "semicolon.csv": lambda: as_csv(";"),
    "tab.csv": lambda: as_csv("\t"),
    "bar.csv": lambda: as_csv("|", "\n"),
    "named.csv": lambda: "sep=;\r\n" + as_csv(";"),
    "tab.tsv": lambda: as_csv("\t"),
    "mac.csv": lambda: as_csv(ends="\r"),
    "marked.csv": lambda: b"\xef\xbb\xbf" + as_csv().encode(),
    "utf16.csv": lambda: as_csv("\t").encode("utf-16"),
    "utf16be.csv": lambda: b"\xfe\xff" + as_csv().encode("utf-16-be"),
    "utf32.jsonl": lambda: "\n".join(json.dumps(row) for row in TABLE).encode("utf-32"),
    "empty-rows.csv": lambda: as_csv() + ",,,,\r\n  \r\n\r\n , ,,,\r\n",
    "spaced.csv": lambda: as_csv().replace("id,text,n", " id ,text\u00a0, n"),
    "table.parquet": lambda: as_parquet(TABLE),
    "UPPER.PARQUET": lambda: as_parquet(TABLE),
}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", FILES)
def test_every_file_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    rows = tables.read(write(tmp_path / name, FILES[name]()))
    assert [dict(row.values) for row in rows] == TEXTS


FRAMES: dict[str, Callable[[], Any]] = {
    "list of dicts": lambda: TABLE,
    "tuple": lambda: tuple(TABLE),
    "generator": lambda: (row for row in TABLE),
    "pandas": lambda: pd.DataFrame(TABLE),
    "pandas nullable": lambda: pd.DataFrame(TABLE).convert_dtypes(),
    "pandas by arrow": lambda: pd.DataFrame(TABLE).convert_dtypes(dtype_backend="pyarrow"),
    "pandas with a column named as a method": lambda: pd.DataFrame(TABLE).assign(to_dicts=None, column_names=1.0),
    "polars": lambda: pl.DataFrame(TABLE),
    "arrow": lambda: pyarrow.Table.from_pylist(TABLE),
}


@pytest.mark.parametrize("name", FRAMES)
def test_data_in_python_gives_the_same_rows(name: str) -> None:
    rows = tables.rows_of(FRAMES[name]())
    assert [{key: row.values[key] for key in TEXTS[0]} for row in rows] == TEXTS
    assert rows[1].place == "data: row 2"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (float("nan"), None),
        (np.nan, None),
        (pd.NA, None),
        (pd.NaT, None),
        (Decimal("nan"), None),
        (np.int64(4), "4"),
        (np.float32(0.5), "0.5"),
        (np.bool_(True), "true"),
        (np.str_("a"), "a"),
        (3.0, "3"),
        (-0.0, "0"),
        (1e300, "1e+300"),
        (Decimal("1E+2"), "100"),
        (Decimal("0.10"), "0.10"),
        (10**40, "1" + "0" * 40),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (pd.Timestamp("2024-02-29 12:00"), "2024-02-29T12:00:00"),
        (datetime.timedelta(hours=1), "1:00:00"),
        ("", ""),
    ],
)
def test_scalars_become_text(value: object, text: str | None) -> None:
    assert tables.as_cell(value) == text


def test_what_is_no_text_is_no_input_but_may_be_a_target(tmp_path: Path) -> None:
    rows = [
        {"text": str(i), "pixels": b"\x00\xff", "seen": [1], "target": {"b": [i, None], "a": "ü"}} for i in "ab"
    ]
    rows.append({**rows[0], "text": "c"})
    for source in (rows, pl.DataFrame(rows), write(tmp_path / "d.parquet", as_parquet(rows))):
        loaded = data.load(source, seed=0)
        assert loaded.columns == ("text",)
        targets = {e.target for e in (*loaded.train, *loaded.dev, *loaded.test)}
        assert targets == {'{"a": "ü", "b": ["a", null]}', '{"a": "ü", "b": ["b", null]}'}
    arrays = [{"text": str(i), "target": np.array([1, 2])} for i in range(3)]
    assert data.load(arrays, seed=0).train[0].target is not None


def test_formats_may_be_mixed_in_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", as_parquet([{"input": "a", "target": 1}]))
    write(tmp_path / "dev.tsv", "input\ttarget\nb\t2\n")
    write(tmp_path / "test.json", '[{"target": 3, "input": "c"}]')
    loaded = data.load(tmp_path, seed=0)
    both = [(e.inputs["input"], e.target) for e in (*loaded.train, *loaded.dev, *loaded.test)]
    assert both == [("a", "1"), ("b", "2"), ("c", "3")]


def test_splits_in_python_are_kept() -> None:
    frames = {"dev": pl.DataFrame({"q": ["b"], "target": ["2"]}), "test": [{"q": "c", "target": "3"}]}
    task, notes = load_task({"train": pd.DataFrame({"q": ["a"], "target": ["1"]}), **frames})  # type: ignore[dict-item]
    assert [e.id for e in (*task.train, *task.dev, *task.test)] == ["train-1", "dev-1", "test-1"]
    assert task.name == "data"
    assert notes[0] == "data: 1 train, 1 dev, 1 test rows, split as they were given"


@given(st.binary(max_size=200))
def test_any_bytes_give_rows_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    for suffix in (".csv", ".tsv", ".json", ".jsonl", ".parquet"):
        with contextlib.suppress(ConfigError):
            assert tables.read(write(folder / f"any{suffix}", raw))


WRONG_FILES = [
    ("d.json", "", "d.json: holds no rows"),
    ("d.json", "[]", "d.json: holds no rows"),
    ("d.json", '[{"a": 1},\n {"a" 2}]', "d.json:2:7: not JSON"),
    (
        "d.json",
        '{"a": 1}\n{"a": 2}\n',
        "d.json:2:1: not JSON (Extra data); it looks like one object a line: rename",
    ),
    ("d.json", "3", "is a JSON number; write a list of objects"),
    ("d.json", "[1]", "d.json: row 1: is a JSON number; write an object"),
    ("d.json", '{"a": {"0": "x"}, "b": {"0": "y"}}', "is an object with no list; write a list"),
    ("d.json", '{"a": ["x"], "b": ["y"]}', "is an object with 2 lists (a, b); write a list"),
    ("d.json", '[{"a": 1e999}]', "row 1: column 'a': inf is no number"),
    ("d.json", '[{"": 1}]', "row 1: column '' has no name"),
    ("d.jsonl", '{"a": 1, "a ": 2}', "d.jsonl:1: two columns have the same name but for spaces"),
    ("d.jsonl", '{"a": {"b": ["\\udc00"]}}', "d.jsonl:1: holds half a surrogate pair"),
    ("d.csv", "a;b\n1;2;3\n", "d.csv:2: 3 cells, but the header has 2 (a, b); quote cells that hold a ';'"),
    ("d.csv", "sep=;\na;b\n1;2;3\n", "d.csv:3: 3 cells"),
    ("d.csv", "a, a\n1,2\n", "d.csv:1: column 'a' stands twice"),
    ("d.csv", "caf\u00e9,cafe\u0301\n1,2\n", "d.csv:1: column 'café' stands twice"),
    ("d.tsv", 'a\tb\n"x\t1\n', "d.tsv:2: a quote is opened and never closed"),
    ("d.tsv", "a\tb\nx\n", "d.tsv:2: 1 cells, but the header has 2 (a, b); quote cells that hold a tab"),
    ("d.csv", b"\xff\xfea\x00b", "d.csv: starts like UTF-16 and is broken at byte"),
    ("d.csv", b"a,b\n1,\x80\n", "d.csv:2: byte 0x80 at position 6 is not UTF-8 (in Windows-1252 it is '€'); save"),
    ("d.csv", b"\xef\xbb\xbfa,b\n\xe9,1\n", "d.csv:2: byte 0xe9 at position 7"),
    ("d.csv", b"a\n\xe9\n", "iconv -f WINDOWS-1252 -t UTF-8 d.csv > new-file"),
    ("d.csv", "\ufeffa,b\nx\x00,1\n".encode("utf-16-le"), "d.csv:2: holds a NUL character"),
    ("d.parquet", b"PAR1nonsense", "d.parquet: is no Parquet file that can be read ("),
    (
        "d.xlsx",
        b"PK",
        "d.xlsx: files in '.xlsx' are not supported; use .jsonl, .json, .csv, .tsv or .parquet; export",
    ),
]


@pytest.mark.parametrize(("name", "content", "said"), WRONG_FILES, ids=[said[:50] for *_, said in WRONG_FILES])
def test_wrong_files_are_refused(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(ConfigError) as caught:
        tables.read(path)
    assert said in str(caught.value).replace(f"{tmp_path}/", "")


def _twice() -> pd.DataFrame:
    return pd.DataFrame([[1, 2]], columns=["a", "a "])


WRONG_DATA: list[tuple[Callable[[], Any], str]] = [
    (list, "data: holds no rows; add examples"),
    (pd.DataFrame, "data: holds no rows"),
    (lambda: 3, "data: is a int; give a DataFrame, or a list of dicts"),
    (lambda: ["text"], "data: row 1: is a str; give a dict"),
    (lambda: pd.Series(["a"]), "data: row 1: is a str; give a dict"),
    (lambda: pl.LazyFrame(TABLE), "data: is a LazyFrame; give the frame that its .collect() returns"),
    (_twice, "data: column 'a' stands twice; rename one"),
    (lambda: pd.DataFrame([[1, 2]]), "data: column 0 is named by a int; name every column by text"),
    (lambda: [{3: "a"}], "data: row 1: column 3 has no name"),
    (lambda: [{"a": object()}], "data: row 1: column 'a': a object has no text; convert it to text"),
    (lambda: [{"a": {"x"}}], "data: row 1: column 'a': a set has no text"),
    (lambda: [{"a": float("-inf")}], "data: row 1: column 'a': -inf is no number"),
    (lambda: [{"a": "\ud800"}], "data: row 1: holds half a surrogate pair"),
]


@pytest.mark.parametrize(("make", "said"), WRONG_DATA, ids=[said[:50] for _, said in WRONG_DATA])
def test_wrong_data_in_python_is_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tables.rows_of(make())
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            {"input": ["a"], "target": ["b"]},
            "data: a mapping of 'input', 'target'; give rows under each of 'train'",
        ),
        ({"train": [{"a": 1}], "dev": [], "test": []}, "data['dev']: holds no rows"),
        ([{"q": "a", "target": b"x"}], "data: row 1: the target cannot be written as JSON"),
        ([{"q": "a", "target": [{1, 2}]}], "data: row 1: the target cannot be written as JSON (a set has no text"),
        ([{"q": "a", "target": "x"}, {"target": "x"}], "data: row 2: no column 'q', which data: row 1 has"),
    ],
)
def test_wrong_tables_are_refused(source: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        data.load(source, seed=0)
    assert str(caught.value).startswith(said)


def test_parquet_without_its_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "d.parquet", as_parquet(TABLE))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'promptopt-suite\[parquet\]', or save it as \.jsonl"):
        tables.read(path)


def test_a_parquet_file_may_not_name_a_column_twice(tmp_path: Path) -> None:
    table = pyarrow.table([pyarrow.array([1]), pyarrow.array([2])], names=["a", "a"])
    parquet.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(ConfigError, match=r"d\.parquet: column 'a' stands twice"):
        tables.read(tmp_path / "d.parquet")


def test_a_generator_is_read_once() -> None:
    def rows() -> Iterator[dict[str, object]]:
        yield from ({"input": str(i), "target": "x"} for i in range(5))

    loaded = data.load(rows(), seed=0)
    assert sum(map(len, (loaded.train, loaded.dev, loaded.test))) == 5


def test_a_run_on_a_frame_goes_on_with_the_same_rows_in_another_form(tmp_path: Path) -> None:
    rows = [{"item": f"thing {i}", "colour": ("red", "green", "blue")[i % 3]} for i in range(60)]

    def run(source: Any) -> Result:
        words = {"model": "sim", "target": "colour", "out": tmp_path / "run", "budget": Budget(calls=200)}
        return optimize("Name the colour of {{item}}.", source, **words)

    first = run(pd.DataFrame(rows))
    assert first.improvement is not None
    assert run(pl.DataFrame(rows)).best == first.best
    config = tomllib.loads((tmp_path / "run/config.toml").read_text(encoding="utf-8"))
    assert (config["run"]["command"], config["run"]["source"]) == ("", {"target": "colour"})
    with pytest.raises(ConfigError, match="data: its content differs"):
        run(rows[:-1])
