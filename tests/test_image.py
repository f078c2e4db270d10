"""Images of examples: checked before a run, sent with the user message, known by their bytes."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commandline import Runner, optimize

from promptopt import data, image
from promptopt.config import Settings, load_task
from promptopt.errors import ConfigError, ImageChanged
from promptopt.plan import make_plan
from promptopt.providers import LitellmTransport, ModelSpec
from promptopt.types import Budget, Image, Message, Prompt, Request


def png(n: int = 0) -> bytes:
    """Return a picture of one pixel whose colour is `n`."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    rest = chunk(b"IDAT", zlib.compress(bytes([0, n % 256]))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + rest


def data_url(raw: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"


def write_rows(folder: Path, n: int = 60, *, has_text: bool = True) -> Path:
    """Write pictures and a JSONL file that names them; return the file."""
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for i in range(n):
        (folder / f"pictures/p{i}.png").write_bytes(png(i))
        row = {"text": f"thing {i}", "photo": f"pictures/p{i}.png", "target": ("red", "blue")[i % 2]}
        rows.append(row if has_text else {key: row[key] for key in ("photo", "target")})
    path = folder / "d.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


# One image ----------------------------------------------------------------------------------------

STARTS = {
    "image/png": png(),
    "image/jpeg": b"\xff\xd8\xff\xe0rest",
    "image/gif": b"GIF89arest",
    "image/webp": b"RIFF\n\x00\x00\x00WEBPrest",
}


@pytest.mark.parametrize("kind", STARTS)
def test_the_first_bytes_say_what_an_image_is(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.bin").write_bytes(STARTS[kind])
    found = image.load("a.bin", tmp_path)
    assert (found.kind, found.name, found.is_file) == (kind, "a.bin", True)
    url = data_url(STARTS[kind], kind)
    assert image.parts_of([found], "say")[0] == {"type": "image_url", "image_url": {"url": url}}
    again = image.load(url, tmp_path)
    assert (again, again.is_file, again.name) == (found, False, "data URL")
    assert image.parts_of([again], " ") == [{"type": "image_url", "image_url": {"url": url}}]


def test_an_address_is_sent_as_it_is() -> None:
    found = image.load("https://example.org/a.png?x=1", Path())
    assert (found.identity, found.kind, found.is_file) == ("https://example.org/a.png?x=1", "", False)
    parts = image.parts_of([found], "say")
    assert [part["type"] for part in parts] == ["image_url", "text"]
    assert parts[0]["image_url"]["url"] == found.source


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("gone.png", "there is no image file "),
        (".", "there is no image file "),
        ("text.png", "text.png starts with 68 65 6c 6c 6f; save it as PNG, JPEG, GIF or WebP"),
        ("empty.png", "empty.png is empty; save it as PNG"),
        ("huge.png", "huge.png has 20000001 bytes, at most 20000000 are sent; make it smaller"),
        ("ftp://example.org/a.png", "'ftp://example.org/a.png' is no file, http(s) URL or data URL"),
        ("https://", "'https://' is no file, http(s) URL"),
        ("data:image/png;base64,@@", "is not base64"),
        ("data:image/png;base64,aGVsbG8=", "starts with 68 65 6c 6c 6f; save it"),
        ("data:image/png,raw", "is no file, http(s) URL or data URL (base64)"),
        ("a\x00b", "there is no image file "),
        ("x" * 5000, "cannot be read ("),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, cell: str, said: str) -> None:
    (tmp_path / "text.png").write_bytes(b"hello")
    (tmp_path / "empty.png").write_bytes(b"")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(20_000_001)
    with pytest.raises(ConfigError) as caught:
        image.load(cell, tmp_path)
    assert said in str(caught.value)


@pytest.mark.parametrize("change", ["other bytes", "gone"])
def test_a_changed_file_is_an_error(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(1))
    found = image.load("a.png", tmp_path)
    path.unlink()
    if change == "other bytes":
        path.write_bytes(png(2))
    with pytest.raises(ImageChanged, match=r"^the image a\.png ") as caught:
        image.parts_of([found], "")
    assert str(tmp_path) not in str(caught.value)


# Requests -----------------------------------------------------------------------------------------

REQUEST = Request("m", (Message("user", "hi"),), 5)


def test_the_digest_hangs_on_content_and_not_on_paths(tmp_path: Path) -> None:
    for name, n in (("a.png", 1), ("b.png", 1), ("c.png", 2)):
        (tmp_path / name).write_bytes(png(n))
    a, b, c = (image.load(name, tmp_path) for name in ("a.png", "b.png", "c.png"))
    digests = [replace(REQUEST, images=images).digest for images in ((), (a,), (b,), (c,), (a, c), (c, a))]
    assert digests[1] == digests[2]
    assert len(set(digests)) == 5


def test_requests_without_images_keep_their_digest() -> None:
    assert REQUEST.digest == "7855887f060de8f3dab6e551b73c8df5"
    assert replace(REQUEST, is_embedding=True).digest == "961f3b75ca7991a3bd6c4f1f18d9944a"


def test_images_stand_in_the_last_user_message() -> None:
    spec = ModelSpec("gpt-4o", max_tokens=7)
    shown = Image("https://e.org/a.png", "", "https://e.org/a.png")
    talk = (Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    request = replace(spec.request(talk), images=(shown,))
    messages = LitellmTransport((spec,))._arguments(request)["messages"]
    assert [message["content"] for message in messages[:-1]] == ["s", "a", "b"]
    assert messages[-1]["content"] == [
        {"type": "image_url", "image_url": {"url": "https://e.org/a.png"}},
        {"type": "text", "text": "c"},
    ]
    more = spec.worst_case(request).tokens - spec.worst_case(replace(request, images=())).tokens
    assert more == image.MAX_TOKENS == 50_000


# Data ---------------------------------------------------------------------------------------------


def test_image_columns_are_no_inputs_and_empty_cells_no_images(tmp_path: Path) -> None:
    path = write_rows(tmp_path, 3)
    rows = [json.loads(line) for line in path.read_text().split("\n")]
    rows.append({"text": "none", "photo": None, "target": "red"})
    rows.append({"text": "two", "photo": ["pictures/p0.png", "pictures/p1.png"], "target": "red"})
    rows.append({"text": "two", "photo": "pictures/p1.png", "target": "red"})
    path.write_text("\n".join(map(json.dumps, rows)))
    task, _ = load_task(path, images="photo")
    every = {e.inputs["text"]: e for e in (*task.train, *task.dev, *task.test)}
    assert task.columns == ("text",)
    assert [len(every[name].images) for name in ("thing 0", "none")] == [1, 0]
    assert len((*task.train, *task.dev, *task.test)) == 6, "rows with other images are others"
    two = next(e for e in (*task.train, *task.dev, *task.test) if len(e.images) == 2)
    assert two.images == (image.load("pictures/p0.png", tmp_path), image.load("pictures/p1.png", tmp_path))


def test_paths_are_relative_to_the_working_folder_in_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(png())
    monkeypatch.chdir(tmp_path)
    rows: list[dict[str, Any]] = [{"text": str(i), "photo": Path("a.png"), "target": "x"} for i in range(3)]
    assert data.load(rows, seed=0, images=("photo",)).train[0].images[0].source == str(tmp_path / "a.png")


def plan_of(path: Path, model: str, prompt: str = "Name the colour. {{text}}", **words: Any) -> Any:
    task, notes = load_task(path, images=("photo",), columns_of=Prompt(prompt))
    settings = Settings(model=model, budget=Budget(calls=400), **words)
    return make_plan(task.with_initial(Prompt(prompt)), settings, notes)


def test_models_that_see_no_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none-at-all")
    path = write_rows(tmp_path)
    with pytest.raises(ConfigError, match=r"model 'o3-mini' sees no images.*take a vision model, or leave"):
        plan_of(path, "o3-mini")
    assert not any("known beforehand" in note for note in plan_of(path, "openai/gpt-4o-mini").notes)
    assert any("whether it sees them is not known" in note for note in plan_of(path, "gpt-3.5-turbo").notes)
    notes = plan_of(path, "mine", api_base="http://127.0.0.1:1/v1").notes
    assert "images are shown to the task model alone, not to: optimizer" in notes
    assert "the simulator ignores images" in plan_of(path, "sim").notes


def test_the_worst_case_of_a_run_counts_images(tmp_path: Path) -> None:
    plain = plan_of(write_rows(tmp_path), "sim").worst_pair.tokens
    task, notes = load_task(tmp_path / "d.jsonl", columns_of=Prompt("{{text}}"))
    without = make_plan(task.with_initial(Prompt("{{text}}")), Settings("sim", budget=Budget(calls=400)), notes)
    assert plain - without.worst_pair.tokens > 90_000


# Runs ---------------------------------------------------------------------------------------------


def shown(requests: list[Any]) -> list[list[str]]:
    """Return the addresses of the images in each request."""
    return [
        [part["image_url"]["url"] for part in r if part["type"] == "image_url"]
        for r in requests
        if type(r) is list
    ]


@pytest.mark.parametrize("has_text", [True, False])
def test_a_run_shows_images_and_goes_on_wherever_they_lie(
    run: Runner, tmp_path: Path, endpoint: tuple[str, list[str]], has_text: bool
) -> None:
    address, requests = endpoint
    write_rows(tmp_path / "a", has_text=has_text)
    (tmp_path / "prompt.md").write_text("Name the colour of {{text}}" if has_text else "Name the colour.")
    words = ("--image", "photo", "--api-base", address, "--budget-calls", 160, "--json")
    command = (*words, "--optimizer", "random", "--set", "max_shots=0", "--out", "out")
    done = run(*optimize(*command, prompt="prompt.md", data="a/d.jsonl", model="local"))
    assert done.status == 0, done.err
    urls = shown(requests)
    assert len(urls) > 30
    assert all(len(row) == 1 and row[0].startswith("data:image/png;base64,") for row in urls)
    assert {row[0] for row in urls} <= {data_url(png(i)) for i in range(60)}
    assert len({row[0] for row in urls}) > 20
    kept = b"".join(path.read_bytes() for path in sorted((tmp_path / "out").glob("journal.db*")))
    assert b"base64" not in kept
    assert b"p1.png" not in kept
    (tmp_path / "a").rename(tmp_path / "b")
    n_before = len(requests)
    again = run(*optimize(*command, prompt="prompt.md", data="b/d.jsonl", model="local"))
    assert again.status == 0, again.err
    assert len(requests) == n_before
    assert json.loads(again.out)["best"] == json.loads(done.out)["best"]


def test_an_image_that_changes_ends_the_run(
    run: Runner, tmp_path: Path, endpoint: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, requests = endpoint
    write_rows(tmp_path / "a")
    (tmp_path / "prompt.md").write_text("Name the colour of {{text}}")
    parts_of = image.parts_of

    def spoilt(images: Any, text: str) -> Any:
        if len(shown(requests)) == 5:
            for path in (tmp_path / "a/pictures").iterdir():
                path.write_bytes(png(200))
        return parts_of(images, text)

    monkeypatch.setattr(image, "parts_of", spoilt)  # the one place to change files at a known moment
    words = ("--image", "photo", "--api-base", address, "--budget-calls", 160, "--out", "out")
    done = run(*optimize(*words, "--concurrency", 1, prompt="prompt.md", data="a/d.jsonl", model="local"))
    assert done.status == 1
    assert "is not the one that the run began with; put that one back" in done.err
    assert len(shown(requests)) == 5


def test_image_columns_stand_in_files_too(run: Runner, tmp_path: Path) -> None:
    write_rows(tmp_path / "a")
    (tmp_path / "prompt.md").write_text("---\nimage: [photo]\n---\nName the colour of {{text}}")
    words = ("--budget-calls", 200, "--quiet")
    assert run(*optimize(*words, "--out", "x", prompt="prompt.md", data="a/d.jsonl")).status == 0
    config = (tmp_path / "x/config.toml").read_text()
    assert "--image photo" in config
    done = run("optimize", "--config", "x/config.toml", "--out", "y", "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["best"] == json.loads((tmp_path / "x/result.json").read_text())["best"]


def test_an_evaluation_shows_images_and_shares_answers_with_a_run(
    run: Runner, tmp_path: Path, endpoint: tuple[str, list[str]]
) -> None:
    address, requests = endpoint
    write_rows(tmp_path / "a")
    (tmp_path / "prompt.md").write_text("Name the colour of {{text}}")
    words = ("prompt.md", "--data", "a/d.jsonl", "--image", "photo", "--model", "local", "--api-base", address)
    done = run("evaluate", *words, "--split", "dev", "--out", "out", "--json")
    assert done.status == 0, done.err
    outcome = json.loads(done.out)
    assert len(shown(requests)) == outcome["paid_calls"] == outcome["n"] == 18
    again = run("evaluate", *words, "--split", "dev", "--out", "out", "--json")
    assert json.loads(again.out)["paid_calls"] == 0
    for path in (tmp_path / "a/pictures").iterdir():
        path.write_bytes(png(int(path.stem[1:]) + 60))
    other = run("evaluate", *words, "--split", "dev", "--out", "out", "--json")
    assert json.loads(other.out)["paid_calls"] == 18, "other bytes under the same names are other images"
