"""Pages that stand alone: one file, nothing loaded, no script but ours, whatever text they show.

Every text goes through Jinja2's escaping, and loses what would steer a reader's eye (controls, marks of writing
direction). Should a hole remain, the page's content security policy lets no other script or style run, by digest.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import regex
from markupsafe import Markup

_STEERS = regex.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


def render(template: str, **fields: Any) -> str:
    """Return a page made of a template of this package, which extends `base.html.jinja`."""
    style, script = _asset("style.css"), _asset("page.js")
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup(style),
            script=Markup(script),
            policy=(
                f"default-src 'none'; style-src 'sha256-{_digest(style)}'; script-src 'sha256-{_digest(script)}'; "
                "img-src data:; base-uri 'none'; form-action 'none'"
            ),
            **fields,
        )
    )


def fragment(template: str, **fields: Any) -> str:
    """Return a piece of HTML made of a template, for a page of somebody else's."""
    return _environment().get_template(template).render(**fields)


def harmless(text: str) -> str:
    """Return a text without characters that steer a reader's eye, or that UTF-8 cannot hold."""
    return _STEERS.sub("�", text.replace("\r\n", "\n"))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("promptopt.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters["count"] = lambda n: f"{n:,}"
    return environment


def _finalize(value: object) -> object:
    """Return what stands for a value in a page: markup of ours as it is, all other text made harmless."""
    if value is None:
        return "–"
    return harmless(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _asset(name: str) -> str:
    return resources.files("promptopt.report").joinpath("templates", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
