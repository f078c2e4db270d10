"""Keys, struck out of what is kept or shown.

Exact values are known: of the environment's variables that are named like keys, and of parts of an address that
may be a token. They are struck out of all that a provider sends, answers included. What only looks like a key is
struck out of messages, never of answers, which may speak of keys.
"""

from __future__ import annotations

import base64
import logging
import os
import re
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, urlsplit

MARK = "***"
_URL = re.compile(r"https?://[^\s'\"<>|,;()\[\]]+")
# Names of variables that hold keys, at whatever provider; OPENAI_API_KEY, HF_TOKEN, AWS_ACCESS_KEY_ID, say.
_NAME = re.compile(
    r"(?:^|_)(?:api_?key|key|token|secret|passw(?:or)?d|passphrase|credentials?|pat)(?:_(?:id|json|base64|bedrock|\d+))*$"
    r"|(?:^|_)bearer_token",
    re.IGNORECASE,
)
_LEAST_CHARS = 8  # a shorter value may be any word
# Shapes of keys by whose they are; each begins with letters, so that a text without them is passed over quickly,
# and `keep` stays. `make test` looks for them in all that is recorded.
SHAPES: Mapping[str, re.Pattern[str]] = {
    "Anthropic": re.compile(r"sk-ant-(?<![\w-]sk-ant-)[\w-]{16,}"),
    "OpenAI and alike": re.compile(r"sk-(?<![\w-]sk-)(?!ant-)(?=[\w-]*\d)[\w-]{16,}"),
    "Google": re.compile(r"AIza(?<!\wAIza)[\w-]{30,}"),
    "Google OAuth": re.compile(r"ya29\.[\w-]{20,}"),
    "Groq": re.compile(r"gsk_(?<!\wgsk_)\w{20,}"),
    "xAI": re.compile(r"xai-(?<!\wxai-)\w{20,}"),
    "Hugging Face": re.compile(r"hf_(?<!\whf_)[A-Za-z0-9]{20,}"),
    "AWS": re.compile(r"A(?<!\wA)(?:KIA|SIA)[A-Z0-9]{16}\b"),
    "GitHub": re.compile(r"gh(?<!\wgh)[pousr]_\w{20,}|github_pat_\w{20,}"),
    "Slack": re.compile(r"xox(?<!\wxox)[abeoprs]-[\w-]{10,}"),
    "JWT": re.compile(r"eyJ(?<!\weyJ)[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"),
    "PEM": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.*?-----END [A-Z ]*PRIVATE KEY-----)?", re.DOTALL),
    "bearer": re.compile(r"(?P<keep>earer )(?=\S*\d)[\w.~+/=-]{12,}"),
    "basic": re.compile(r"(?P<keep>asic )(?=[\w+/]*\d)[\w+/]{8,}={0,2}"),
    "header": re.compile(r"(?P<keep>pi-key['\"]?: ?b?['\"]?)[^\s'\"<]{8,}"),
}
# Loggers of what stands between us and a server: at the level DEBUG they show requests and replies.
LOGGERS = (
    *("LiteLLM", "LiteLLM Proxy", "LiteLLM Router", "openai", "openai._base_client", "openai._response"),
    *("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy", "asyncio"),
    *("aiohttp.client", "aiohttp.internal", "aiohttp.access", "aiohttp.server", "urllib3.connectionpool"),
)


@dataclass(frozen=True)
class Secrets:
    """Exact values that must not be kept or shown.

    Args:
        values: (value, what stands in its place), the longest first.
    """

    values: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def known(addresses: Iterable[str | None] = ()) -> Secrets:
        """Return the secrets of the environment as it is now, and of addresses of servers."""
        found = {value: f"<{name}>" for name, value in os.environ.items() if _NAME.search(name)}
        for address in addresses:
            found |= dict.fromkeys(secret_parts(address or ""), "<address>")
        return _listed(frozenset(row for row in found.items() if len(row[0]) >= _LEAST_CHARS))

    def strike(self, text: str) -> str:
        """Return `text` without the values."""
        for value, name in self.values:
            if value in text:
                text = text.replace(value, name)
        return text

    def clean(self, text: str) -> str:
        """Return a message without the values, and without what looks like a key."""
        text = _URL.sub(lambda found: masked(found[0]), self.strike(text))
        for shape in SHAPES.values():
            text = shape.sub(_without_key, text)
        return text


def _without_key(found: re.Match[str]) -> str:
    return found.groupdict().get("keep", "") + "<key>"


@lru_cache(maxsize=64)
def _listed(found: frozenset[tuple[str, str]]) -> Secrets:
    """Return the secrets of (value, name), in all their forms."""
    rows = {form: name for value, name in sorted(found) for form in _forms(value)}
    return Secrets(tuple(sorted(rows.items(), key=lambda row: (-len(row[0]), row))))


def _forms(value: str) -> set[str]:
    """Return how a value may be written: as it is, in a URL, in base64."""
    data = value.encode("utf-8", "surrogateescape")
    return {value, value.strip(), quote(data, safe=""), base64.b64encode(data).decode().rstrip("=")}


def clean(text: str) -> str:
    """Return a message without the environment's keys, and without what looks like one."""
    return Secrets.known().clean(text)


def masked(address: str) -> str:
    """Return an address with what may be secret in it struck out: a password, a query, a token in the path."""
    found = re.match(r"([A-Za-z][\w+.-]*:)?//", address)
    start = found.end() if found else 0
    rest, query, _ = address[start:].partition("?")
    rest, _, fragment = rest.partition("#")
    host, slash, path = rest.partition("/")
    user, at, host = host.rpartition("@")
    segments = [MARK if is_token(segment) else segment for segment in path.split("/")]
    shown = address[:start] + (MARK if user else "") + at + host + slash + "/".join(segments)
    return shown + (f"?{MARK}" if query else "") + (f"#{MARK}" if fragment else "")


def secret_parts(address: str) -> set[str]:
    """Return the parts of an address that `masked` strikes out."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return set()
    segments = {segment for segment in parts.path.split("/") if is_token(segment)}
    return {part for part in (parts.password, parts.query, parts.fragment, *segments) if part}


def is_token(segment: str) -> bool:
    """Return whether a segment of a path may be a token: long, of letters and digits, no words or versions."""
    if any(shape.search(segment) for shape in SHAPES.values()) or segment in dict(Secrets.known().values):
        return True
    pieces = re.split(r"[-_.~]", segment)
    longest = max(pieces, key=len)
    return len(longest) >= 16 and any(c.isdigit() for c in longest) and any(c.isalpha() for c in longest)


class _Cleaner(logging.Filter):
    """Cleans what a logger says, its exceptions included, before any handler sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean a record in place."""
        secrets = Secrets.known(self.addresses)
        record.msg, record.args = secrets.clean(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = secrets.clean("".join(traceback.format_exception(*record.exc_info)).rstrip())
            record.exc_info = None
        return True


def guard_loggers(addresses: Iterable[str]) -> None:
    """Keep keys, and tokens in the addresses of servers, out of the logs of the packages that talk to servers."""
    told = {address for address in addresses if masked(address) != address}
    for name in LOGGERS:
        logger = logging.getLogger(name)
        cleaner = next((one for one in logger.filters if isinstance(one, _Cleaner)), None)
        if cleaner is None:
            logger.addFilter(cleaner := _Cleaner())
        cleaner.addresses |= told
