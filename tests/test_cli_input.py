"""Every input that the command line takes, and every wrong one: status 2, one message, nothing spent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import Runner, Wrong, check_refused, optimize, rows

MESS = (
    '\ufeff"Text ";note;label\r\n'
    + "".join(f'"thing {i}; ""quoted""\r\nline 2";;{("red", "blue")[i % 2]}\r\n' for i in range(60))
    + '"Zoë ﬁnds – 日本 🙂";"";red\r\n;;\r\n\r\n'
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_spreadsheet_with_all_its_mess_runs(run: Runner, tmp_path: Path, encoding: str) -> None:
    raw = MESS.encode(encoding) if encoding == "utf-8" else MESS.removeprefix("\ufeff").encode(encoding)
    (tmp_path / "export.csv").write_bytes(raw)
    (tmp_path / "prompt.md").write_text("Name the colour of {{Text}}")
    words = ("--target", "label", "--budget-calls", 300, "--json")
    done = run(*optimize(*words, prompt="prompt.md", data="export.csv"))
    assert done.status == 0, done.err
    assert json.loads(done.out)["spend"]["calls"] <= 300


SELF = "item,p,target\nx,data.csv,red\n"
FTP = "item,p,target\nx,ftp://a/b,red\n"
WEB = "p,target\n" + "".join(f"https://example.org/{i}.png,red\n" for i in range(3))


def listed(target: object) -> str:
    """Return JSON rows of which the last has this target."""
    good = [{"item": f"thing {i}", "target": ["red", "crimson"]} for i in range(60)]
    return json.dumps([*good, {"item": "last", "target": target}])


WRONG = [
    Wrong("no JSON", r"data\.json:1:\d+: not JSON", data_path="data.json", data='[{"item": }]'),
    Wrong("JSON Lines as JSON", r"rename it to \.jsonl", data_path="data.json", data='{"item": 1}\n{"item": 2}'),
    Wrong("JSON by column", r"no list; write a list", data_path="data.json", data='{"item": {"0": "a"}}'),
    Wrong("JSON with lists", r"2 lists \(a, b\)", data_path="data.json", data='{"a": [1], "b": [2]}'),
    Wrong("JSON of texts", r"row 1: is a JSON text", data_path="data.json", data='["a"]'),
    Wrong("empty JSON", r"data\.json: holds no rows", data_path="data.json", data="[]"),
    Wrong("ragged TSV", r"data\.tsv:2: 1 cells", data_path="data.tsv", data="item\ttarget\nx\n"),
    Wrong("no Parquet", r"data\.parquet: is no Parquet", data_path="data.parquet", data=b"PAR1"),
    Wrong("spreadsheet", r"export the sheet as CSV", data_path="data.xlsx", data=b"PK"),
    Wrong("Windows-1252", r"data\.csv:2: byte 0xe9 .*'é'.*iconv", data=b"item,target\ncaf\xe9,red\n"),
    Wrong("broken UTF-16", r"starts like UTF-16 and is broken", data=b"\xff\xfea\x00b"),
    Wrong("separators", r"may be separated by ';' and '\|'", data="item;target|x\n1;2|3\n"),
    Wrong("column twice", r"data\.csv:1: column 'item' stands twice", data="item, item ,target\n1,2,3\n"),
    Wrong("unnamed column", r"data\.csv:1: column 3 has no name", data="item,target,\n1,2,\n"),
    Wrong("ragged by semicolon", r"data\.csv:62: 3 cells", data=rows("a,b,c").replace(",", ";")),
    Wrong(
        "no turn left", r"prompt\.md:3: parts user, assistant; .*last of them user:", prompt="user:\na\nassistant:"
    ),
    Wrong(
        "empty turn",
        r"prompt\.md:1: part 1, user:, is empty",
        prompt="user:\nassistant:\nuser:\nx",
    ),
    Wrong("no list", r"a prompt in \.json is a list of messages", prompt="{}", prompt_path="prompt.json"),
    Wrong("no role", r"message 1 has the keys content", prompt='[{"content": "x"}]', prompt_path="prompt.json"),
    Wrong(
        "wrong role",
        r"role 'bot' is none of",
        prompt='[{"role": "bot", "content": ""}]',
        prompt_path="prompt.json",
    ),
    Wrong(
        "no YAML",
        r"prompt\.yaml:2: not YAML",
        prompt="- role: user\n  content: {{item}}",
        prompt_path="prompt.yaml",
    ),
    Wrong("target columns", r"no target column 'colr'.*--target", "--target target,colr"),
    Wrong("target column twice", r"--target target,target: name each column once", "--target target,target"),
    Wrong(
        "no alternatives", r"data\.json: row 61: target 'target' is empty", data_path="data.json", data=listed([])
    ),
    Wrong("no image column", r"--image itm: no such column.*'item'", "--image itm"),
    Wrong("image is target", r"--image target: is the target column", "--image target"),
    Wrong("no image file", r"data\.csv:2: there is no image file .*thing 0", "--image item"),
    Wrong("no image", r"data\.csv:2: the image data\.csv starts with .*; save it as PNG", "--image p", data=SELF),
    Wrong("image scheme", r"data\.csv:2: the image 'ftp://a/b' is no file", "--image p", data=FTP),
    Wrong("image as placeholder", r"\{\{p\}\} names no column.*no placeholder", "--image p", "{{p}}", WEB),
    Wrong("blind simulator", r"the simulator \(sim\) sees no images", "--image p", "Name it.", WEB),
    Wrong(
        "neither text nor image",
        r"data\.csv:5: has neither text nor an image",
        "--image p",
        "x",
        WEB + '" ",red\n',
    ),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.name.replace(" ", "-"))
def test_wrong_input(case: Wrong, run: Runner, tmp_path: Path, endpoint: tuple[str, list[str]]) -> None:
    check_refused(case, run, tmp_path, endpoint)
