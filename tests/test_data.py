import csv
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptopt import data
from promptopt.errors import ConfigError

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
TASKS = sorted(path.parent for path in SHARED.glob("*/task.json"))


_WRITABLE = st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r")


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def rows(n: int, prefix: str = "row") -> list[dict[str, object]]:
    return [{"input": f"{prefix} {i}", "target": str(i % 3)} for i in range(n)]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def folder(path: Path, train: str, dev: str, test: str) -> Path:
    for name, text in (("train", train), ("dev", dev), ("test", test)):
        write(path / f"{name}.jsonl", text)
    return path


@pytest.mark.parametrize(
    ("n", "sizes"),
    [(3, (1, 1, 1)), (4, (1, 1, 2)), (10, (2, 3, 5)), (100, (25, 30, 45)), (499, (125, 150, 224)),
     (500, (150, 175, 175)), (1000, (300, 350, 350))],
)  # fmt: skip
def test_one_file_is_split_by_seed(tmp_path: Path, n: int, sizes: tuple[int, int, int]) -> None:
    path = write(tmp_path / "d.jsonl", jsonl(*rows(n)))
    loaded = data.load(path, seed=7)
    assert (len(loaded.train), len(loaded.dev), len(loaded.test)) == sizes
    every = [*loaded.train, *loaded.dev, *loaded.test]
    assert {example.inputs["input"] for example in every} == {f"row {i}" for i in range(n)}
    assert len({example.id for example in every}) == n
    train, dev, test = sizes
    assert loaded.notes == (f"{path}: {n} rows split by seed 7 into {train} train, {dev} dev, {test} test",)
    assert data.load(path, seed=7) == loaded
    assert n < 100 or data.load(path, seed=8).test != loaded.test


def test_values_become_text(tmp_path: Path) -> None:
    numbers = {"i": 3, "f": 2.5, "whole": 4.0, "b": True, "no": None}
    nested = {"choices": ["x"], "meta": {"k": 1}, "target": {"b": 1, "a": "ü"}}
    row = {"id": 5, "s": "é", **numbers, **nested}
    others = [{**row, "id": i, "s": str(i)} for i in range(2)]
    loaded = data.load(write(tmp_path / "d.jsonl", jsonl(row, *others)), seed=0)
    assert loaded.columns == ("s", "i", "f", "whole", "b", "no")
    every = {example.id: example for example in (*loaded.train, *loaded.dev, *loaded.test)}
    assert every["5"].inputs == {"s": "é", "i": "3", "f": "2.5", "whole": "4", "b": "true", "no": ""}
    assert every["5"].target == '{"a": "ü", "b": 1}'


def test_csv_with_bom_quotes_line_breaks_and_other_columns(tmp_path: Path) -> None:
    text = '\ufeffquestion,note,answer\r\n"a, ""b""\r\nc",,1\r\n\r\nd,x,2\r\ne,y,3\r\n'
    loaded = data.load(write(tmp_path / "d.CSV", text), seed=0, target="answer", input="question")
    every = {example.target: example for example in (*loaded.train, *loaded.dev, *loaded.test)}
    assert every["1"].inputs == {"question": 'a, "b"\nc', "note": ""}
    assert {example.id.split("-")[1] for example in every.values()} == {"2", "5", "6"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r")), min_size=3, max_size=9
    )
)
def test_csv_and_jsonl_say_the_same(tmp_path: Path, texts: list[str]) -> None:
    table = [{"input": f"{i}:{text}", "target": "t"} for i, text in enumerate(texts)]
    with (tmp_path / "d.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["input", "target"])
        writer.writeheader()
        writer.writerows(table)
    write(tmp_path / "d.jsonl", jsonl(*table))
    both = [data.load(tmp_path / name, seed=1) for name in ("d.csv", "d.jsonl")]
    shown = [[e.inputs["input"] for split in (d.train, d.dev, d.test) for e in split] for d in both]
    assert shown[0] == shown[1]


def test_a_folder_keeps_its_splits(tmp_path: Path) -> None:
    path = folder(tmp_path / "f", jsonl(*rows(2, "a")), jsonl(*rows(3, "b")), jsonl(*rows(4, "c")))
    (path / "dev.jsonl").unlink()
    write(path / "dev.csv", "target,input\n1,x\n2,y\n")
    loaded = data.load(path, seed=0)
    assert [e.id for e in (*loaded.train, *loaded.dev)] == ["train-1", "train-2", "dev-2", "dev-3"]
    assert [e.inputs["input"] for e in loaded.test] == ["c 0", "c 1", "c 2", "c 3"]
    assert loaded.notes == (f"{path}: 2 train, 2 dev, 4 test rows, split as the files are",)


def test_a_row_in_two_splits_stays_in_test_then_dev(tmp_path: Path) -> None:
    def shared(*texts: str) -> str:
        return jsonl(*({"id": f"{i}{text}", "input": text, "target": "1"} for i, text in enumerate(texts)))

    path = folder(
        tmp_path / "f", shared("both", "Own", "TEST  row"), shared("both", "test row", "dev"), shared("Test Row")
    )
    loaded = data.load(path, seed=0)
    assert [e.inputs["input"] for e in loaded.train] == ["Own"]
    assert [e.inputs["input"] for e in loaded.dev] == ["both", "dev"]
    assert [e.inputs["input"] for e in loaded.test] == ["Test Row"]
    assert loaded.notes[1:] == (
        f"{path}: 1 row(s) of dev that also stand in test was dropped (1test row)",
        f"{path}: 2 row(s) of train that also stand in dev or test were dropped (0both, 2TEST  row)",
    )


def test_repeated_rows_are_dropped_and_other_targets_told(tmp_path: Path) -> None:
    table = [*rows(6), {"input": "ROW  0", "target": "0"}, {"input": "row 1", "target": "other"}]
    path = write(tmp_path / "d.jsonl", jsonl(*table))
    loaded = data.load(path, seed=0)
    assert len((*loaded.train, *loaded.dev, *loaded.test)) == 6
    assert loaded.notes[1] == (
        f"{path}: 2 repeated row(s) were dropped (line 7, line 8); "
        "1 of them with another target than the row that was kept"
    )


def test_ids_are_made_unique(tmp_path: Path) -> None:
    def named(prefix: str, *ids: str) -> str:
        return jsonl(*({"id": name, "input": f"{prefix}{i}", "target": "1"} for i, name in enumerate(ids)))

    path = folder(tmp_path / "f", named("a", "1", "2"), named("b", "1"), named("c", "3"))
    loaded = data.load(path, seed=0)
    assert [e.id for e in (*loaded.train, *loaded.dev, *loaded.test)] == ["train-1", "train-2", "dev-1", "test-3"]
    assert loaded.notes[1] == f"{path}: ids stand twice; rows are named with the split before them"
    path = folder(tmp_path / "g", named("a", "1", "1"), named("b", "1"), named("c", "3"))
    assert [e.id for e in data.load(path, seed=0).train] == ["train-1", "train-2"]
    assert "split and line instead" in data.load(path, seed=0).notes[1]


def test_targets_are_optional_where_no_metric_needs_them(tmp_path: Path) -> None:
    table = [
        {"input": "a", "target": "x"},
        {"input": "b", "target": None},
        {"input": "c", "target": " "},
        {"input": "d"},
    ]
    path = write(tmp_path / "d.jsonl", jsonl(*table))
    loaded = data.load(path, seed=0, targets="any")
    assert sorted(str(e.target) for e in (*loaded.train, *loaded.dev, *loaded.test)) == [
        "None",
        "None",
        "None",
        "x",
    ]
    path = write(tmp_path / "e.csv", "input\na\nb\nc\n")
    for targets in ("any", "all or none"):
        assert data.load(path, seed=0, targets=targets).test[0].target is None  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="no target column 'lable'"):
            data.load(path, seed=0, targets=targets, target="lable")  # type: ignore[arg-type]


@pytest.mark.parametrize("hole", [{"input": "b"}, {"input": "b", "target": None}, {"input": "b", "target": " "}])
def test_targets_that_some_rows_lack_are_refused(tmp_path: Path, hole: dict[str, object]) -> None:
    path = write(tmp_path / "d.jsonl", jsonl({"input": "a", "target": "x"}, hole, {"input": "c", "target": "y"}))
    said = r"d\.jsonl:2: target 'target' is empty; fill it in.*; 2 rows have one: .*--metric none"
    with pytest.raises(ConfigError, match=said):
        data.load(path, seed=0, targets="all or none")


def test_targets_that_one_file_of_a_folder_lacks_are_refused(tmp_path: Path) -> None:
    path = folder(
        tmp_path / "f", jsonl(*rows(3, "a")), jsonl(*rows(3, "b")), jsonl({"input": "c"}, {"input": "d"})
    )
    with pytest.raises(ConfigError, match=r"test\.jsonl:1: target 'target' is empty"):
        data.load(path, seed=0, targets="all or none")


GOOD = '{"input": "a", "target": "1"}\n'
WRONG = [
    ("d.jsonl", "", "", "holds no rows; add examples"),
    ("d.jsonl", GOOD + "\n" + '{"input": "b" "target"}', "3:15", "not JSON"),
    ("d.jsonl", GOOD + "[1]", "2", 'is a JSON list; write an object such as {"input"'),
    ("d.jsonl", GOOD + "3", "2", "is a JSON number"),
    ("d.jsonl", GOOD + '{"input": NaN, "target": "1"}', "2", "NaN is no JSON; write"),
    ("d.jsonl", GOOD + '{"input": "b", "input": "c", "target": "1"}', "2", "key 'input' stands twice"),
    ("d.jsonl", GOOD + "[" * 100_000, "2", "cannot be read"),
    ("d.jsonl", GOOD + '{"input": ' + "9" * 9999 + ', "target": "1"}', "2", "cannot be read"),
    ("d.jsonl", GOOD + '{"input": "\\ud800", "target": "1"}', "2", "surrogate"),
    ("d.jsonl", GOOD + '{"target": "1"}', "2", "no column 'input', which d.jsonl:1 has; give every row"),
    ("d.jsonl", GOOD + '{"input": "b", "more": "c", "target": "1"}', "1", "no column 'more', which d.jsonl:2 has"),
    ("d.jsonl", GOOD + '{"input": "b"}', "2", "no column 'target'"),
    ("d.jsonl", GOOD + '{"input": ["b"], "target": "1"}', "2", "column 'input' is a list or object here and text"),
    ("d.jsonl", GOOD + '{"input": "b", "target": null}', "2", "target 'target' is empty; fill it in"),
    ("d.jsonl", '{"id": [1], "input": "b", "target": "1"}', "1", "id is a list or object; write"),
    ("d.jsonl", '{"target": "1"}', "1", "no input column beside 'target'; add one"),
    ("d.jsonl", '{"input": "1", "tarjet": "1"}', "", "no target column 'target' (columns: input, tarjet); "),
    ("d.jsonl", '{"input": "1", "tarjet": "1"}', "", "name the right one with --target; did you mean 'tarjet'?"),
    ("d.jsonl", GOOD * 5, "", "1 different row(s); each of train, dev, test needs one: add rows"),
    ("d.jsonl", GOOD + "\x00", "2", "binary or UTF-16; save it as UTF-8"),
    ("d.csv", "", "", "holds no rows"),
    ("d.csv", "input,target\n", "", "holds no rows"),
    ("d.csv", 'input,target\n"a\nb",1\nc\n', "4", "1 cells, but the header has 2 (input, target); quote cells"),
    ("d.csv", "input,target\na,b,c\n", "2", "3 cells"),
    ("d.csv", 'input,target\na,1\n"b,2\nc,3\n', "3", "a quote is opened and never closed; close it"),
    ("d.csv", 'input,target\n"a"b,1\n', "2", "broken CSV"),
    ("d.csv", "input,input,target\na,b,c\n", "1", "column 'input' stands twice in the header; rename one"),
    ("d.csv", "input,,target\na,b,c\n", "1", "column 2 has no name in the header; name every column"),
    ("d.csv", "input;target|x\na;b\n", "1", "may be separated by ';' and '|'; save the file with commas"),
    ("d.csv", "input,target\na,\n", "2", "target 'target' is empty"),
    ("d.csv", "input,target\n" + "a" * 10_000_001 + ",1\n", "2", "more than 10000000 characters; shorten it"),
    (
        "d.xlsx",
        "x",
        "",
        "files in '.xlsx' are not supported; use .jsonl, .json, .csv, .tsv or .parquet; export the sheet",
    ),
    ("data", "x", "", "files without a suffix are not supported"),
]


@pytest.mark.parametrize(("name", "text", "place", "said"), WRONG, ids=[said[:40] for *_, said in WRONG])
def test_wrong_files_are_refused_with_line_and_remedy(
    tmp_path: Path, name: str, text: str, place: str, said: str
) -> None:
    path = write(tmp_path / name, text)
    before = csv.field_size_limit()
    with pytest.raises(ConfigError) as caught:
        data.load(path, seed=0)
    message = str(caught.value)
    assert message.startswith(f"{path}:{place}: " if place else f"{path}: ")
    assert said in message
    assert csv.field_size_limit() == before


def test_undecodable_bytes_are_named_by_position(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes("input,target\nn,1\ncaf\xe9,2\n".encode("latin-1"))
    with pytest.raises(
        ConfigError, match=r"d\.csv:3: byte 0xe9 at position 20 is not UTF-8 \(in Windows-1252 it is 'é'\); save"
    ):
        data.load(path, seed=0)


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such file or folder; name a"):
        data.load(tmp_path / "nowhere", seed=0)
    path = folder(tmp_path / "f", GOOD, GOOD.replace("a", "b"), GOOD.replace("a", "c"))
    write(path / "dev.csv", "input,target\nx,1\n")
    with pytest.raises(ConfigError, match=r"both dev\.jsonl and dev\.csv; keep one"):
        data.load(path, seed=0)
    (path / "dev.csv").unlink()
    write(path / "dev.jsonl", "\n")
    with pytest.raises(ConfigError, match=r"dev\.jsonl: holds no rows; add"):
        data.load(path, seed=0)
    (path / "dev.jsonl").unlink()
    with pytest.raises(
        ConfigError, match=r"no dev\.jsonl \(nor .*; the folder holds test\.jsonl, train\.jsonl\); add"
    ):
        data.load(path, seed=0)
    write(path / "dev.jsonl", '{"text": "b", "target": "1"}')
    with pytest.raises(ConfigError, match=r"train\.jsonl:1: no column 'text', which dev\.jsonl:1 has"):
        data.load(path, seed=0)
    with pytest.raises(ConfigError, match=r"no row of dev is left.*give dev rows of its own"):
        data.load(folder(tmp_path / "g", jsonl(*rows(1, "x")), GOOD, GOOD), seed=0)


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", jsonl(*rows(5)))
    with pytest.raises(ConfigError, match=r"no input column 'imput' .*did you mean 'input'"):
        data.load(path, seed=0, input="imput")
    with pytest.raises(ConfigError, match="seed=-1; a seed is a whole number from 0"):
        data.load(path, seed=-1)


@pytest.mark.skipif(not TASKS, reason="the shared data sets are not here")
@pytest.mark.parametrize("path", TASKS, ids=lambda path: str(path.name))
def test_known_data_loads_whole(path: Path) -> None:
    sizes = json.loads((path / "task.json").read_text(encoding="utf-8"))["sizes"]
    loaded = data.load(path, seed=0)
    assert {name: len(getattr(loaded, name)) for name in data.SPLITS} == sizes
    assert len(loaded.notes) == 1
    assert loaded.columns == ("input",)


def test_all_known_data_sets_are_tested() -> None:
    assert len(TASKS) in (0, 15)
