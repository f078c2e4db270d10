"""Files to bytes, and these to text: UTF-8, or what a byte order mark says; all else is named with a way out.

`unique` is for JSON within it.
"""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path

from promptopt.errors import ConfigError

_MARKS = (  # the longer first: UTF-32's little-endian mark starts with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class UnreadableFile(ValueError):
    """A file that is not read: a device, a pipe or a socket, which may never end, or one that is too large."""


def read_bytes(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes; a larger one is not read at all.

    Raises:
        OSError: it cannot be read.
        UnreadableFile: it is another kind of file, or too large; the message says which.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableFile("is no regular file")
        raw = b"" if status.st_size > most else file.read(most + 1)  # the size of some is said to be 0
        if max(status.st_size, len(raw)) > most:
            raise UnreadableFile(f"has {max(status.st_size, len(raw)):,} bytes, and at most {most:,} are read")
        return raw


def read_text(path: Path, most: int, encoding: str = "utf-8") -> str:
    """Return the text of a regular file, lines ended by LF; otherwise as `read_bytes`, or UnicodeDecodeError."""
    return read_bytes(path, most).decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for a writer, as a pipe would have it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def decode(raw: bytes, path: Path) -> str:
    """Return the text that the file at `path` holds, without its byte order mark.

    Raises:
        ConfigError: it is neither UTF-8 nor marked as UTF-16 or UTF-32, or it is binary; with the line.
    """
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8")
    start = len(codecs.BOM_UTF8) if raw.startswith(codecs.BOM_UTF8) else 0
    if encoding == "utf-8" and b"\x00" in raw:
        line = raw.count(b"\n", 0, raw.index(b"\x00")) + 1
        raise ConfigError(f"{path}:{line}: holds NUL bytes, so it is binary or UTF-16; save it as UTF-8 text")
    try:
        text = raw[start:].decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-8":
            raise _not_utf8(raw, start + error.start, path) from error
        wrong = f"starts like {encoding.upper()} and is broken at byte {error.start}"
        raise ConfigError(f"{path}: {wrong}; save it as UTF-8") from error
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise ConfigError(f"{path}:{line}: holds a NUL character; save it as plain UTF-8 text")
    return text


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object from its keys and values, as `object_pairs_hook`.

    Raises:
        ValueError: a key stands twice.
    """
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} stands twice")
        found[key] = value
    return found


def _not_utf8(raw: bytes, position: int, path: Path) -> ConfigError:
    """Return the error that names a byte, what it would be in Windows-1252, and how to convert the file."""
    line = raw.count(b"\n", 0, position) + 1
    byte = raw[position : position + 1]
    meant = byte.decode("cp1252", "ignore")
    guess = f" (in Windows-1252 it is {meant!r})" if meant.isprintable() and meant.strip() else ""
    return ConfigError(
        f"{path}:{line}: byte 0x{byte.hex()} at position {position} is not UTF-8{guess}; save the file as UTF-8 "
        f"(a spreadsheet: as CSV UTF-8), or convert it: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > new-file"
    )
