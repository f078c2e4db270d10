"""The answer within a reply: in its last answer tag, after its last marker, or the whole reply.

`extract` finds it, or a `Finder` where the user's own pattern says; `parse_letters`, `parse_number`,
`parse_object`, `parse_whole` and `parse_last` read it.

All steps take time linear in the reply's length, since replies come from outside; only a user's pattern may take
longer, within a limit.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from fractions import Fraction

from promptopt.errors import ConfigError
from promptopt.tasks import pattern as patterns

_OPEN = re.compile(r"<(?:final_answer|answer)>", re.IGNORECASE)
_CLOSE = re.compile(r"</(?:final_answer|answer)>", re.IGNORECASE)
_MARKER = re.compile(r"\banswer[*_]{0,3}[ \t]{0,3}[:：][*_]{0,3}|(?<!#)####(?!#)|\\boxed\{", re.IGNORECASE)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_INFO = re.compile(r"```[\w+.-]{0,30}[ \t]*\n")
_PAIRS = (
    *(("```", "```"), ("**", "**"), ("__", "__"), ("`", "`"), ("*", "*"), ("$", "$"), ('"', '"'), ("'", "'")),
    *(("“", "”"), ("‘", "’"), ("„", "“"), ("«", "»")),
)
_TEX = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed)\{")
_N_LAYERS = 8
_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:),]{0,2}")
_BRACKETED = re.compile(r"(?<![\w(])[A-Z]\)|(?<!\w)\([A-Za-z]\)")
_LEADING = re.compile(r"\(?([A-Z])(?:[).:,\n]|[ \t]{1,3}(?:[-–—(]))|\(?([a-z])[).:]")
_NAMED = re.compile(
    r"\b(?:option|choice|letter|answer)(?: is)?[ \t]{0,3}:?[ \t]{0,3}[*_(]{0,3}([A-Z])\b(?!['’])", re.I
)
_NUMBER = re.compile(
    r"(?<![\w.)])(?P<sign>[-+]?)\$?(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))(?P<rest>\.\d+)?"
    r"(?P<exponent>[eE][-+]?\d{1,3}(?!\d))?(?:[ ]?/[ ]?(?P<below>\d+))?",
    re.ASCII,
)
_FRAC = re.compile(r"\\[dt]?frac\{(\d{1,40})\}\{(\d{1,40})\}")
_MAX_DIGITS = 400
_MAX_OBJECTS = 50


@dataclass(frozen=True)
class Finder:
    """Finds the answer within a reply: at the built-in places, or where a pattern says.

    Args:
        pattern: regular expression with one group, or with a group named `answer`; the last match counts, and
            without one there is no answer. None = the built-in places, see `extract`.

    Raises:
        ConfigError: the pattern is no regular expression, or its groups are others.
    """

    pattern: str | None = None

    def __post_init__(self) -> None:
        """Check the pattern, before anything is spent."""
        if self.pattern is None:
            return
        try:
            found = patterns.compiled(self.pattern)
        except ConfigError as error:
            raise ConfigError(f"--answer-pattern: {error}; correct it") from error
        if found.groups != 1 and "answer" not in found.groupindex:
            raise ConfigError(
                f"--answer-pattern: {self.pattern!r} has {found.groups} groups; put one pair of parentheses "
                "around the answer, or write (?P<answer>...) and (?:...) for the others"
            )

    def answer(self, reply: str) -> str:
        """Return the answer that `reply` gives; "" if there is none.

        Raises:
            TaskError: the pattern takes too long.
        """
        return extract(reply) if self.pattern is None else trim(self.scope(reply))

    def scope(self, reply: str) -> str:
        """Return the text that counts at all: the whole reply, or what the pattern's group matched."""
        if self.pattern is None:
            return reply
        group = "answer" if "answer" in patterns.compiled(self.pattern).groupindex else 1
        return patterns.last_group(self.pattern, group, reply) or ""


def extract(reply: str) -> str:
    """Return the answer that `reply` gives; "" if there is none.

    It is what stands in the last `<final_answer>` or `<answer>` tag (up to the end if it is not closed);
    without such a tag what follows the last `Answer:` or `####`, or stands in the last `\\boxed{}`,
    whichever of them comes last; else the whole reply. Code fences, quotes and bold marks are taken off.
    """
    opening = _last(_OPEN, reply)
    if opening is not None:
        closing = _CLOSE.search(reply, opening.end())
        return trim(reply[opening.end() : closing.start() if closing else len(reply)])
    marker = _last(_MARKER, reply)
    if marker is None:
        return trim(reply)
    if marker.group().endswith("{"):
        return trim(_braced(reply, marker.end()))
    return trim(_after(reply[marker.end() :]))


def trim(text: str) -> str:
    """Return `text` without the whitespace, code fences, quotes, bold and TeX wrappers around it."""
    text = text.strip()
    for _ in range(_N_LAYERS):
        inner = _unwrapped(text)
        if inner == text:
            break
        text = inner
    return text


def parse_letters(answer: str) -> tuple[str, ...]:
    """Return the distinct option letters that `answer` names, in capitals; one = unambiguous."""
    for text in (answer, trim(answer.rsplit("\n", 1)[-1])):
        whole = _LETTER.fullmatch(text)
        if whole:
            return (whole.group(1).upper(),)
    for found in (_BRACKETED.findall(answer), _named_letters(answer)):
        if found:
            return tuple(dict.fromkeys(name.strip("()").upper() for name in found))
    leading = _LEADING.match(answer)
    return ((leading.group(1) or leading.group(2)).upper(),) if leading else ()


def parse_number(text: str) -> Fraction | None:
    """Return the last number in `text`; None if there is none, or it has absurdly many digits."""
    text = text.replace("−", "-").replace("\\$", "$").replace("\\%", "%").replace("{,}", ",").replace("-$", "-")
    last = _last(_NUMBER, _FRAC.sub(r"\1/\2", text))
    if last is None or len(last.group()) > _MAX_DIGITS:
        return None
    whole = last["whole"].replace(",", "") or "0"
    value = Fraction(f"{last['sign']}{whole}{last['rest'] or ''}{last['exponent'] or ''}")
    below = int(last["below"] or 1)
    return value / below if below else None


def is_number(text: str) -> bool:
    """Return whether `text` is one number and nothing else; $ , % and a final dot are part of it."""
    bare = text.strip().rstrip("%").rstrip(".").replace("−", "-").replace("-$", "-")
    return _NUMBER.fullmatch(bare) is not None and parse_number(bare) is not None


def parse_object(text: str) -> dict[str, object] | None:
    """Return `text` as a JSON object, or else the last object that stands in it; None if there is none."""
    found = _last_json(text, json.JSONDecoder(), "{")
    return found if isinstance(found, dict) else None


def parse_whole(text: str) -> tuple[object] | None:
    """Return the JSON value that `text` is, in a tuple; None = it is none. No NaN, no number beyond floats."""
    try:
        return (_STRICT.decode(text.strip()),)
    except (ValueError, RecursionError):
        return None


def parse_last(text: str) -> tuple[object] | None:
    """Return the last JSON object or list that stands in `text`, in a tuple; None = there is none."""
    found = _last_json(text, _STRICT, "{[")
    return None if found is None else (found,)


def _last_json(text: str, decoder: json.JSONDecoder, openings: str) -> object | None:
    """Return the last object (or list, if `openings` has its bracket) in `text`; None if there is none."""
    start = re.compile(f"[{re.escape(openings)}]")
    found: object | None = None
    opening = start.search(text)
    for _ in range(_MAX_OBJECTS):
        if opening is None:
            break
        try:
            found, end = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            end = opening.start() + 1
        opening = start.search(text, end)
    return found


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is beyond floating point")
    return value


_STRICT = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007
        pass
    return found


def _after(rest: str) -> str:
    """Return the answer that starts `rest`: its first line, or all of a code block or JSON object."""
    rest = rest.strip()
    if rest.startswith("{"):
        return rest
    if rest.startswith("```"):
        end = rest.find("```", 3)
        return rest if end < 0 else rest[: end + 3]
    line = rest.split("\n", 1)[0].strip()
    is_half_bold = line.endswith("**") and line.count("**") % 2 == 1
    return line[:-2] if is_half_bold else line


def _braced(text: str, start: int) -> str:
    """Return what stands before the brace that closes the one before `start`, or else the line."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[start : brace.start()]
    return text[start:].split("\n", 1)[0]


def _unwrapped(text: str) -> str:
    """Return `text` without its outermost wrapper, or unchanged if it has none."""
    tex = _TEX.match(text)
    if tex is not None and text.endswith("}"):
        inner = _braced(text, tex.end())
        return inner.strip() if tex.end() + len(inner) + 1 == len(text) else text
    info = _INFO.match(text)
    if info is not None:
        end = text.find("```", info.end())
        is_whole = end < 0 or end + 3 == len(text)
        return text[info.end() : end if end >= 0 else len(text)].strip() if is_whole else text
    for opening, closing in _PAIRS:
        is_wrapped = text.startswith(opening) and text.endswith(closing)
        if is_wrapped and len(text) >= len(opening) + len(closing):
            inner = text[len(opening) : -len(closing)]
            if opening not in inner and closing not in inner:
                return inner.strip()
    return text


def _named_letters(answer: str) -> list[str]:
    """Return letters after `option`, `choice`, ...; small ones only where no word can be meant."""
    return [m.group(1) for m in _NAMED.finditer(answer) if m.group(1).isupper() or m.end() == len(answer)]
