"""Images that go with an example: checked when the data is read, sent as parts of the user message.

An image is known by its bytes, not by its path, so that answers serve again wherever the file lies; an image on
the web is known by its address, since its bytes are not looked at.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from promptopt.errors import ConfigError, ImageChanged
from promptopt.types import Image, digest_of_bytes

MAX_BYTES = 20_000_000
MAX_TOKENS = 50_000
"""Most input tokens that an image can take: above the 48,169 of gpt-4o-mini for its largest, the most known."""
USUAL_TOKENS = 1_000
"""Input tokens of an image for forecasts, about a megapixel with most models."""

_STARTS = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
)
_WEB = re.compile(r"https?://[^\s/]+\S*")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:")
_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,")


def load(cell: str, folder: Path) -> Image:
    """Return the image that a cell names: a file (relative to `folder`), an http(s) URL, or a data URL.

    Raises:
        ConfigError: there is no such file, it is no PNG, JPEG, GIF or WebP, or is larger than 20 MB.
    """
    if _WEB.fullmatch(cell):
        return Image(cell, "", cell)
    if head := _DATA_URL.match(cell):
        try:
            raw = base64.b64decode(cell[head.end() :], validate=True)
        except binascii.Error as error:
            raise ConfigError(f"the image {cell[:40]}... is not base64 ({error}); encode it anew") from error
        return Image(digest_of_bytes(raw), _kind(raw, f"{cell[:40]}..."), cell)
    if _SCHEME.match(cell):
        raise ConfigError(
            f"the image {cell[:80]!r} is no file, http(s) URL or data URL (base64); write one of these"
        )
    path = folder / cell
    try:
        if not path.is_file():
            raise ConfigError(f"there is no image file {path}; paths are relative to the data file")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"the image {path} has {size} bytes, at most {MAX_BYTES} are sent; make it smaller")
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"the image {cell[:80]!r} cannot be read ({error}); check path and permissions"
        ) from error
    return Image(digest_of_bytes(raw), _kind(raw, str(path)), str(path.resolve()))


def parts_of(images: Sequence[Image], text: str) -> list[dict[str, Any]]:
    """Return the parts of a user message: the images, then the text if there is one.

    Raises:
        ImageChanged: a file is not the one that was checked.
    """
    shown: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": _url(image)}} for image in images]
    return [*shown, {"type": "text", "text": text}] if text.strip() else shown


def _url(image: Image) -> str:
    if not image.is_file:
        return image.source
    try:
        raw = Path(image.source).read_bytes()
    except OSError as error:
        raise ImageChanged(f"the image {image.name} cannot be read any more ({error.strerror})") from error
    if digest_of_bytes(raw) != image.identity:
        raise ImageChanged(
            f"the image {image.name} is not the one that the run began with; put that one back, and run the same "
            "command to go on, or start a new run"
        )
    return f"data:{image.kind};base64,{base64.b64encode(raw).decode('ascii')}"


def _kind(raw: bytes, name: str) -> str:
    """Return the media type that the first bytes of an image say."""
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"the image {name} has {len(raw)} bytes, at most {MAX_BYTES} are sent; make it smaller")
    kind = next((kind for start, kind in _STARTS if start.match(raw)), None)
    if kind is None:
        found = f"starts with {raw[:8].hex(' ')}" if raw else "is empty"
        raise ConfigError(f"the image {name} {found}; save it as PNG, JPEG, GIF or WebP")
    return kind
