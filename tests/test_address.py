"""Addresses at which nobody can be reached are refused before any call."""

from __future__ import annotations

import pytest

from promptopt.address import check_address, is_local
from promptopt.config import Settings
from promptopt.errors import ConfigError


@pytest.mark.parametrize(
    "address",
    [
        "localhost:1",
        "ftp://example.com/v1",
        "http://",
        "http:///v1",
        "http://exa mple/v1",
        "http://example.com/v1 ",
        "http://example..com/v1",
        "http://exa$mple/v1",
        "http://127.0.0.1:99999/v1",
        "http://127.0.0.1:0/v1",
        "http://127.0.0.1:port/v1",
        "http://[::1/v1",
        "http://[12345::1]/v1",
    ],
)
def test_wrong_addresses(address: str) -> None:
    with pytest.raises(ConfigError, match=r"^--api-base is .*; write it like http://127.0.0.1:8000/v1$"):
        Settings("local", api_base=address)


@pytest.mark.parametrize(
    "path", ["/chat/completions", "/completions", "/embeddings", "/responses", "/embeddings/"]
)
def test_the_path_of_a_call_is_no_base(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^--x is .* is added to it in every call: write http://host:1/v1$"):
        check_address(f"http://host:1/v1{path}", "--x")


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost:8000", True),
        ("http://10.0.0.5/v1", True),
        ("http://192.168.1.7:8000/v1/", True),
        ("http://[::1]:8000/v1", True),
        ("http://gpu_box:8000/v1", True),
        ("http://mac.local/v1", True),
        ("https://api.example.com/v1", False),
        ("https://api.example.com./openai/deployments/x", False),
        ("https://8.8.8.8/v1", False),
        ("https://[2001:4860:4860::8888]/v1", False),
    ],
)
def test_servers_of_ones_own(address: str, own: bool) -> None:
    check_address(address, "--x")
    assert is_local(address) == own
