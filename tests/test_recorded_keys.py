"""Nothing that is recorded in this repository holds a key: cassettes, recordings, data, documents, results."""

from __future__ import annotations

import gzip
import io
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptopt.secret import SHAPES

ROOT = Path(__file__).parent.parent
# Code may name made-up keys: the tests of this very search do.
CODE = (".py", ".pyc")
SKIPPED = {
    ".git",
    ".venv",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".hypothesis",
    "__pycache__",
    "build",
    "runs",
}
OUT = ROOT / "benchmarks" / "out"
# What recordings alone must not hold either: headers with keys, of whatever shape.
HEADERS = re.compile(
    r"\b(?:proxy-)?authorization['\"]?\s*:|\b(?:set-)?cookie['\"]?\s*:|\b(?:x-)?api[-_]?key['\"]?\s*[:=]\s*['\"]?[\w-]{6}|"
    r"\bx-goog-api-key|\bopenai-(?:organization|project)|\bx-amz-security-token|\bbearer ['\"]?[\w-]{6}",
    re.IGNORECASE,
)
EXAMPLES = {
    "Anthropic": "sk-ant-api03-abcdefghijklmnop",
    "OpenAI and alike": "sk-proj-abc123abc123abc123",
    "Google": "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "Google OAuth": "ya29.a0AfH6SMBx1234567890abc",
    "Groq": "gsk_abcdefghijklmnopqrst",
    "xAI": "xai-abcdefghijklmnopqrst12",
    "Hugging Face": "hf_abcdefghijklmnopqrstuvwx",
    "AWS": "AKIAIOSFODNN7EXAMPLE",
    "GitHub": "ghp_abcdefghijklmnopqrst123456",
    "Slack": "xoxb-123456789012-abcdef",
    "JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "PEM": "-----BEGIN RSA PRIVATE KEY-----",
    "bearer": "Authorization: Bearer abcdef123456",
    "basic": "Authorization: Basic dXNlcjpwYXNzd29yZDE=",
    "header": "api-key: 0123456789abcdef",
}


def recorded() -> list[Path]:
    """Return every file of the repository but code."""
    found: list[Path] = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in SKIPPED and Path(folder, name) != OUT]
        found += [Path(folder, name) for name in names]
    return sorted(
        path for path in found if path.is_file() and path.suffix not in CODE and ".egg-info" not in str(path)
    )


def unpacked(data: bytes) -> Iterator[bytes]:
    """Yield the bytes of a file, and those that are packed in it."""
    yield data
    if data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as pack:
            yield from (pack.read(name) for name in pack.namelist())


def keys_in(data: bytes) -> list[str]:
    """Return whose keys some bytes seem to hold, in UTF-8 or UTF-16."""
    texts = [
        part.decode(form, "replace") for part in unpacked(data) for form in ("utf-8", "utf-16-le", "utf-16-be")
    ]
    return [whose for whose, shape in SHAPES.items() if any(shape.search(text) for text in texts)]


def test_nothing_recorded_holds_what_looks_like_a_key() -> None:
    paths = recorded()
    assert {path.parts[len(ROOT.parts)] for path in paths} >= {"cassettes", "tasks", "docs", "benchmarks"}
    found = {str(path.relative_to(ROOT)): keys for path in paths if (keys := keys_in(path.read_bytes()))}
    assert not found, f"remove the keys, and revoke them if they are real: {found}"


def test_no_recording_holds_a_header_with_a_key() -> None:
    paths = [path for path in recorded() if {"cassettes", "recordings"} & {*path.parts}]
    assert paths
    for path in paths:
        for part in unpacked(path.read_bytes()):
            found = HEADERS.search(part.decode("utf-8", "replace"))
            assert found is None, (
                f"{path.name} holds {found.group()!r}; record without headers (docs/cassettes.md)"
            )


@pytest.mark.parametrize("whose", SHAPES)
def test_each_providers_key_would_be_found(whose: str) -> None:
    key = EXAMPLES[whose]
    for around in ("{}", '"key": "{}"', "  - {}\n", "url?key={}&x=1", "({})"):
        assert whose in keys_in(around.format(key).encode())
    assert whose in keys_in(b"\0\xff" + key.encode() + b"\0")
    assert whose in keys_in(gzip.compress(key.encode()))
    assert whose in keys_in(key.encode("utf-16-le"))
    pack = io.BytesIO()
    with zipfile.ZipFile(pack, "w", zipfile.ZIP_DEFLATED) as into:
        into.writestr("journal.json", key)
    assert whose in keys_in(pack.getvalue())


@pytest.mark.parametrize(
    "header",
    [
        *("Authorization: x", "'authorization':", "Cookie: a=b", "x-api-key: abcdef", "api_key=abcdef"),
        *("x-goog-api-key", "openai-organization", "X-Amz-Security-Token", "Bearer abcdef"),
    ],
)
def test_each_header_would_be_found(header: str) -> None:
    assert HEADERS.search(f"  - {header}")


@pytest.mark.parametrize(
    "text",
    [
        "task-specific-1234567890-words",
        "sk-learn",
        "risk-assessment-2024-and-more-words",
        "a bearer of news",
        "basic words",
    ],
)
def test_words_are_no_keys(text: str) -> None:
    assert keys_in(text.encode()) == []
