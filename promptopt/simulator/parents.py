"""The prompts and the criticism that a request shows to a writer."""

from __future__ import annotations

import re

from promptopt.simulator.ask import is_blank, is_contract, wish
from promptopt.simulator.index import Hit

_NAME = r"[\w-]*(?:prompt|instruct|variable|system_message)[\w-]*"
_CRITICAL = r"(?:critique|criticism|feedback|reason|analys|gradient|suggestion|lesson|tip|problem|weakness|advice)"
_TAGGED = re.compile(rf"<({_NAME})>((?:(?!<\1>).)*?)</\1>", re.DOTALL | re.IGNORECASE)
_SPAN = re.compile(r"<(START|INS|TEXT|CANDIDATE)>((?:(?!<\1>).)*?)(?:</\1>|<END>)", re.DOTALL)
_FIELD = re.compile(rf"\[\[ ## ({_NAME}) ## \]\]\n(.*?)(?=\n\[\[ ##|\Z)", re.DOTALL | re.IGNORECASE)
_FENCED = re.compile(r"```(?:\w*\n)?(.*?)```", re.DOTALL)
_LABEL = re.compile(
    r"^[ \t#*_\-\d.)(]*(?:[A-Za-z'’]+ ){0,4}(?:prompt|instruction|variable)s?(?: (?:\w|\d+|one|two|three))?"
    r"(?: ?\([^)\n]*\)| text| below| #\d+)?[*_ ]*(?::|\n-{3,}|\n={3,})[*_ \t]*",
    re.IGNORECASE | re.MULTILINE,
)
_NEXT_LABEL = re.compile(
    r"^[ \t#*_\-\d.)(]*[A-Z][A-Za-z' ]{0,40}(?: \d+| [A-Z])?[*_ ]*(?: ?\([^)\n]*\))?:"
    # A cue with nothing after it ("Answer:") ends a prompt; a label has its text behind or below it.
    r"[*_ \t]*(?=\S|\n\S)(?![^\n]*\{)",
    re.MULTILINE,
)
_SCORE = r"(?:score|accuracy|rating|fitness|reward|performance)"
_SCORED = re.compile(
    rf"^[ \t#*>\-(]*(?:[A-Za-z]+[ _]){{0,2}}{_SCORE}[*_]*(?: ?\([^)\n]*\))?[ \t]*[:=][*_ \t]*"
    r"-?\d+(?:\.\d+)?(?:[ \t]*(?:%|/[ \t]*\d+))?[)*_ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_ENTRY = re.compile(
    r"^[ \t#*>\-]*(?:\d+[.)] ?)?([A-Za-z][A-Za-z_ ]{0,30}?)[ _#]*\d{0,3}[*_]*:[*_ \t]*", re.MULTILINE
)
_CASE = re.compile(
    r"input|question|query|example|case|item|output|answer|reply|response|label|target", re.IGNORECASE
)
_RANGE = re.compile(
    rf"\b{_SCORE}s? (?:can |may )?(?:ranges?|is|are|lies?|goes|go|runs?|var(?:y|ies))\b[^.\n]{{0,30}}"
    r"\b(?:from|between|out of|in)\b[^.\n]{0,20}\d",
    re.IGNORECASE,
)
_WHO = re.compile(r"you(?:'re| are) (?:an?|the|my) (?:[\w-]+[ ,]+){0,5}?(?:assistant|model|AI|chatbot)\W*$", re.I)
# A gap to fill names what is to be put there; a whole sentence of another kind is no gap.
_GAP = re.compile(r"prompt|instruction|variable|version|\bhere\b|[^.?!]\s*$", re.IGNORECASE)
_AFTER_ASK = re.compile(r"^[^\n:]*\b(?:prompt|instruction)s?\b[^\n:]*:[ \t]*\n{0,2}(.+(?:\n.+)*)", re.I | re.M)
_QUOTED = re.compile(r"\"\"\"(.*?)\"\"\"|“(.*?)”|\"([^\"\n]{20,})\"", re.DOTALL)
_CRITICAL_TAG = re.compile(rf"<(\w*{_CRITICAL}\w*)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_CRITICAL_LABEL = re.compile(rf"^[^\n.]{{0,40}}{_CRITICAL}\w*[^\n.]{{0,40}}:\s*", re.IGNORECASE | re.MULTILINE)
_CRITICAL_FIELD = re.compile(
    rf"\[\[ ## (\w*{_CRITICAL}\w*) ## \]\]\n(.*?)(?=\n\[\[ ##|\Z)", re.DOTALL | re.IGNORECASE
)
_TASK_LABEL = re.compile(
    r"^[^\n:.]{0,30}\b(?:task|description|objective|goal)\b[^\n:.]{0,20}:\s*([^\n].*)", re.I | re.M
)
_TASK_TAG = re.compile(r"<(\w*(?:task|description|objective)\w*)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_PURPOSE = re.compile(r"\b(?:prompt|instruction)s?\b[^.\n]*?\b(?:to|that|which) ([^\n]{15,})", re.I)
_META = re.compile(r"prompt|instruction|optimi[sz]|language model|\bLLM\b|\btags?\b|example", re.IGNORECASE)


def parents(text: str, hits: list[Hit]) -> list[str]:
    """Return the prompts shown in a request, in order, each once; [] if there are none.

    Looked for in this order, the first that yields any: tags and marked fields with a telling name,
    fenced blocks, labelled texts with their scores, text after labels such as "Prompt 2:", quoted text, text
    after a request that ends in a colon. What says how to reply is no part of a prompt.
    """
    fields = [_until_contract(body) for body in _contents(_FIELD, text)]
    found = _contents(_TAGGED, text) + fields or _contents(_SPAN, text)
    if not found:
        blocks = [match for match in _FENCED.finditer(text) if not _has_hit(match.span(), hits)]
        found = [match.group(1) for match in blocks if not is_blank(match.group(1))]
    if not found:
        found = _scored(text, hits) or _labelled(text, hits)
    if not found:
        quotes = [match for match in _QUOTED.finditer(text) if not _has_hit(match.span(), hits)]
        found = [next(group for group in match.groups() if group is not None) for match in quotes]
    if not found:
        asks = [match for match in _AFTER_ASK.finditer(text) if not _has_hit(match.span(), hits)]
        found = [match.group(1) for match in asks if wish(match.group(1)) is None]
    return list(dict.fromkeys(body.strip() for body in found if len(body.strip()) >= 8))


def criticism(text: str) -> str:
    """Return what the request marks as feedback, reasons or the like; "" if there is none."""
    found = _contents(_CRITICAL_TAG, text) + _contents(_CRITICAL_FIELD, text)
    for match in _CRITICAL_LABEL.finditer(text):
        found.append(text[match.end() :].split("\n\n\n")[0][:1500])
    return "\n".join(found)


def description(text: str, hits: list[Hit]) -> str:
    """Return one or two sentences on the task itself, for a request that shows no prompt."""
    for match in (*_TASK_TAG.finditer(text), *_TASK_LABEL.finditer(text)):
        body = match.groups()[-1].strip()
        if len(body) >= 8 and not is_blank(body) and not _has_hit(match.span(), hits):
            return body
    for hit in reversed(hits):
        text = f"{text[: hit.start]}:\n{text[hit.end :]}"
    sentences = re.split(r"(?<=[.!?])\s+|\n+", text)
    own = [
        sentence.strip()
        for sentence in sentences
        if len(sentence) > 15
        and not re.match(r"\W*[\w ]{1,20}:|.*:\s*$", sentence)
        and not _META.search(sentence)
        and not _RANGE.search(sentence)
        and wish(sentence) is None
    ]
    # Who the assistant is says little of its task; it is all there is to go by at most.
    own = [sentence for sentence in own if not _WHO.match(sentence)] or own
    purpose = _PURPOSE.search(text)
    if not own and purpose:
        own = [f"The task: {purpose.group(1).strip()}"]
    return " ".join(own[:2]) or "Read the input and give the right answer."


def _contents(pattern: re.Pattern[str], text: str) -> list[str]:
    bodies = [match.group(2) for match in pattern.finditer(text)]
    return [body for body in bodies if not _is_gap(body)]


def _is_gap(body: str) -> bool:
    return is_blank(body) and _GAP.search(body) is not None


def _until_contract(body: str) -> str:
    """Return what stands before a paragraph that says how to reply; the first paragraph always stays."""
    first, *others = body.strip().split("\n\n")
    stop = next((place for place, paragraph in enumerate(others) if is_contract(paragraph)), len(others))
    return "\n\n".join((first, *others[:stop]))


def _scored(text: str, hits: list[Hit]) -> list[str]:
    """Return the texts of a list in which each has a label and, in a line behind or before it, a score.

    Scored inputs or replies are no prompts.
    """
    scores = list(_SCORED.finditer(text))
    if len(scores) < 2:
        return []
    starts = [0, *(score.end() for score in scores)]
    ends = [*(score.start() for score in scores), len(text)]
    before, *between, after = (text[start:end] for start, end in zip(starts, ends, strict=True))
    heads = [_ENTRY.match(gap.lstrip()) for gap in between]
    names = {head.group(1).strip().lower() if head else "" for head in heads}
    if len(names) != 1 or names == {""} or any(map(_CASE.search, names)):
        return []
    bodies = [gap.lstrip()[head.end() :] for gap, head in zip(between, heads, strict=True) if head]
    first = [entry for entry in _ENTRY.finditer(before) if entry.group(1).strip().lower() in names]
    last = _ENTRY.match(after.lstrip())
    if first:
        bodies = [before[first[-1].end() :], *bodies]
    elif last and last.group(1).strip().lower() in names:
        bodies.append(_until_request(after.lstrip()[last.end() :]))
    bodies = [body.strip().strip('"') for body in bodies if not _is_gap(body)]
    known = tuple({hit.text for hit in hits})
    return [] if any(body.startswith(known) for body in bodies) else bodies


def _until_request(body: str) -> str:
    """Return what stands before a paragraph that asks for something; the first paragraph always stays."""
    kept: list[str] = []
    for paragraph in body.strip().split("\n\n"):
        # What follows a prompt and asks for something is the request going on.
        if kept and (wish(paragraph) is not None or is_contract(paragraph) or _RANGE.search(paragraph)):
            break
        kept.append(paragraph)
    return "\n\n".join(kept)


def _labelled(text: str, hits: list[Hit]) -> list[str]:
    found = []
    for label in _LABEL.finditer(text):
        rest = text[label.end() :]
        # Text in the label's own line is the prompt, even if it begins as a label does ("Pick one: a or b").
        own = len(rest.partition("\n")[0])
        stop = _NEXT_LABEL.search(rest, own)
        body = rest[: stop.start()] if stop else rest
        inside = [hit.start - label.end() for hit in hits if label.end() <= hit.start < label.end() + len(body)]
        body = body[: min(inside)] if inside else body
        body = _until_request(body).strip().strip('"')
        if not _is_gap(body):
            found.append(body)
    return found


def _has_hit(span: tuple[int, int], hits: list[Hit]) -> bool:
    return any(span[0] <= hit.start < span[1] for hit in hits)
