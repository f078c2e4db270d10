"""Addresses of servers: refused where nobody can be reached there, told apart by whose they may be."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from promptopt.errors import ConfigError
from promptopt.secret import MARK, masked

# What users copy along with the address; it is added to every call.
_PATHS = re.compile(r"/(chat/completions|completions|embeddings|responses)/*$")


def check_address(address: object, flag: str) -> None:
    """Check that calls can be sent to the address of an OpenAI-compatible server; None is none, nothing is sent.

    Raises:
        ConfigError: no call could arrive, with what to write instead.
    """
    if address is None:
        return
    if not isinstance(address, str):
        raise ConfigError(f"{flag} is {address!r}; write it like http://127.0.0.1:8000/v1")
    try:
        parts = urlsplit(address)
        is_wrong = parts.scheme not in ("http", "https") or not _is_host(parts.hostname or "")
        is_wrong = is_wrong or any(c.isspace() for c in address) or parts.port == 0
    except ValueError:  # a port above 65535 or none, a broken IPv6 address
        is_wrong = True
    if is_wrong:
        raise ConfigError(f"{flag} is {masked(address)!r}; write it like http://127.0.0.1:8000/v1")
    if MARK in address:
        raise ConfigError(f"{flag} is {address!r}, an address whose secret was struck out; give it whole")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(
            f"{flag} is {masked(address)!r}; no user, password or query can be sent with it: a server's key "
            "is read from OPENAI_API_KEY in the environment"
        )
    if found := _PATHS.search(parts.path):
        base, shown = masked(address[: address.rindex(found[0])]), masked(address)
        raise ConfigError(f"{flag} is {shown!r}; {found[0]} is added to it in every call: write {base}")


def is_local(address: str) -> bool:
    """Return whether an address is of this machine or a private network, so that its server may be one's own."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:  # a name; those without a dot are known in a private network only
        return "." not in host or host.endswith((".localhost", ".local"))


def _is_host(host: str) -> bool:
    if ":" in host:
        return bool(ipaddress.IPv6Address(host))
    return all(re.fullmatch(r"[\w-]{1,63}", label) for label in host.removesuffix(".").split("."))
