"""What a judge says of replies: which is better, or how good one is, in the form that is asked for."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from promptopt.simulator.ask import Contract
from promptopt.simulator.checklist import Checklist
from promptopt.simulator.comparison import Comparison, Item
from promptopt.simulator.heading import alternatives
from promptopt.simulator.index import Row, answer_in
from promptopt.simulator.rating import Rating
from promptopt.simulator.rewrite import Draws

_SOUNDNESS = 0.9  # chance that a judgement of a real difference is right
_IN_BETWEEN = 0.1  # share of points that are met in part
_REMARK = "Judged by what was asked for."

_UNITS = r"(?:questions?|pairs?|items?|inputs?|examples?|cases?|comparisons?|problems?|rows?|tasks?)"
_EACH = re.compile(
    rf"\b(?:each|every|per|for all|of all)\b(?: [\w-]+){{0,3}}? {_UNITS}\b|\b{_UNITS} by {_UNITS}\b"
    r"|\brespectively\b|\b(?:line|verdict|letter|choice|judg\w+) (?:per|for each|for every)\b",
    re.IGNORECASE,
)
_OVERALL = re.compile(
    r"\b(?:overall|single|one|final) (?:overall |final |single )?(?:verdict|winner|choice|letter|decision|judg\w+|"
    r"name)\b(?! (?:per|for each|for every))|\b(?:together|as a whole|taken as)\b",
    re.IGNORECASE,
)
_NO_TIE = re.compile(
    r"\b(?:no|not|never|without|avoid|cannot|can't|don't)\b[^.\n,;]{0,30}\b(?:ties?|draws?)\b"
    r"|\bties? (?:is|are) (?:not|im)|\btied?,? (?:prefer|choose|pick|select)",
    re.IGNORECASE,
)
# The word to say, where the request allows it; the first that it uses.
_TIES = (
    (re.compile(r"\b(tie)s?\b", re.IGNORECASE), ""),
    (re.compile(r"\ba (draw)\b|['\"`](draw)\b|\bor (draw)\b|/ ?(draw)\b", re.IGNORECASE), ""),
    (re.compile(r"\b(?:is|are|if|or|both|say)\b[^.\n]{0,20}\b(equal)\b|['\"`/|,] ?(equal)\b", re.IGNORECASE), ""),
    (re.compile(r"\b(neither)\b", re.IGNORECASE), ""),
    (re.compile(r"\btied\b|\bequally (?:good|bad|well)\b|\bsame quality\b|\bboth (?:good|bad)\b", re.I), "tie"),
)
_ALSO = dict.fromkeys(("1", "one", "first"), "1|1st|one|first") | dict.fromkeys(
    ("2", "two", "second"), "2|2nd|two|second"
)
_KEY = re.compile(r"\"(\w+)\"\s*:")
_VERDICT_KEY = re.compile(
    r"winner|verdict|better|best|choice|choose|prefer|decision|judg|answer|score|rating", re.IGNORECASE
)


@dataclass(frozen=True)
class Words:
    """What to write for either side, and for a tie; "" = ties are not allowed."""

    first: str
    second: str
    tie: str


def judged(comparison: Comparison, draws: Draws) -> str:
    """Return the verdict on each pair or, if one is wanted, on all; nine in ten of real differences are seen."""
    request = comparison.request
    words = words_for(request, comparison.names)
    line = _line(request, words)
    leads = [_lead(item) for item in comparison.items]
    is_each = line is not None or (_EACH.search(request) is not None and not _OVERALL.search(request))
    if not is_each:
        # A set that cannot be cut counts as a whole; items without a difference have no say.
        lead = leads[0] if len(leads) == 1 else sum((lead > 0) - (lead < 0) for lead in leads)
        return _laid_out(comparison.contract, request, _pick(lead, words, draws))
    if len(leads) == 1:
        leads *= max(1, len(comparison.items[0].rows))
    before, after = line or ("", ": ")
    verdicts = {str(place): _pick(lead, words, draws) for place, lead in enumerate(leads, 1)}
    if not comparison.contract.blocks and _KEY.findall(request)[:1] == ["1"]:
        return json.dumps(verdicts)
    lines = "\n".join(f"{before}{key}{after}{word}" for key, word in verdicts.items())
    return _laid_out(comparison.contract, request, lines)


def rated(rating: Rating, draws: Draws) -> str:
    """Return a number in the wanted range, high for a right reply; one in ten is as good as any other."""
    share = draws.uniform()
    if rating.rows and draws.chance(_SOUNDNESS):
        share = 0.1 + 0.8 * min(1.0, _n_right(rating.reply, rating.rows) / 1.5) + 0.3 * (share - 0.5)
    value = rating.low + (rating.high - rating.low) * min(1.0, max(0.0, share))
    number = f"{value:.2f}" if rating.high - rating.low <= 1 else f"{value:.0f}"
    is_marked = re.search(r"\[\[(?! ##)", rating.request)
    return _laid_out(rating.contract, rating.request, f"[[{number}]]" if is_marked else number)


def checked(checklist: Checklist, draws: Draws) -> str:
    """Return a verdict on each point, mostly good ones for a right reply; one in ten is as good as any other."""
    good, bad, between = checklist.words
    is_right = bool(checklist.rows) and _n_right(checklist.reply, checklist.rows) >= 1
    before, after = checklist.line
    lines = []
    for number in range(1, checklist.n_points + 1):
        is_met = is_right if checklist.rows and draws.chance(_SOUNDNESS) else draws.chance(0.5)
        is_between = bool(between) and draws.chance(_IN_BETWEEN)
        lines.append(f"{before}{number}{after}{between if is_between else good if is_met else bad}")
    return _laid_out(checklist.contract, checklist.request, "\n".join(lines))


def words_for(request: str, names: tuple[str, str]) -> Words:
    """Return the verdicts that a request offers, as it writes them."""
    first, second = names
    tie = "" if _NO_TIE.search(request) else _tie(request)
    for one, two, even in (("[[{}]]", "[[{}]]", "[[C]]"), ("[[{}>{}]]", "[[{}>{}]]", "[[{}={}]]")):
        marked = (one.format(first, second), two.format(second, first), even.format(first, second))
        if marked[0] in request and marked[1] in request:
            return Words(*marked[:2], tie and (marked[2] if marked[2] in request else f"[[{tie}]]"))
    # Case matters in a name: "for a tie" is not for A.
    targets = (rf"(?<!\w)(?-i:{_ALSO.get(name, re.escape(name))})(?!\w)" for name in names)
    mapped = [_mapped(request, target) for target in (*targets, r"\b(?:tied?|ties|draw|equal|neither|same)\b")]
    if mapped[0] and mapped[1] and mapped[0] != mapped[1]:
        return Words(mapped[0], mapped[1], tie and (mapped[2] or tie))
    return Words(*(alternatives(request, names) or names), tie)


def _tie(request: str) -> str:
    for pattern, word in _TIES:
        found = pattern.search(request)
        if found:
            return word or next(group for group in found.groups() if group)
    return ""


def _mapped(request: str, target: str) -> str | None:
    """Return the quoted word that stands for a target: `"first" if assistant A is better`."""
    quoted = r"[\"'`“]([^\"'`”\n]{1,20})[\"'`”],?\s*(?:if|when|for|means)\s"
    found = re.search(rf"{quoted}[^\"'`.;\n]{{0,40}}?(?:{target})", request, re.IGNORECASE)
    return found.group(1) if found else None


def _line(request: str, words: Words) -> tuple[str, str] | None:
    """Return what stands before and after the number in an example of a verdict's line; None = no example."""
    said = "|".join(re.escape(word) for word in (words.first, words.second, words.tie) if word)
    found = re.search(
        r"(?<!\w)(?P<before>(?:(?:question|item|pair|q|no\.) ?)?[#(\[]?)(?:\d{1,3}|<\w+>|\{\w+\}|[in](?=[:.)]))"
        rf"(?P<after>[)\]]?(?: ?[:.=\-–>]+ ?| ))[<\"'(]?(?:{said})(?!\w)(?=[^\w\n]*(?:$|[`\"'.,;)/|<]|or\b))",
        request,
        re.IGNORECASE | re.MULTILINE,
    )
    return (found.group("before"), found.group("after")) if found else None


def _pick(lead: float, words: Words, draws: Draws) -> str:
    if lead:
        return words.first if draws.chance(_SOUNDNESS) == (lead > 0) else words.second
    # Without a difference there is nothing to go by but taste.
    if words.tie and draws.chance(0.5):
        return words.tie
    return words.first if draws.chance(0.5) else words.second


def _lead(item: Item) -> float:
    return _n_right(item.replies[0], item.rows) - _n_right(item.replies[1], item.rows)


def _n_right(reply: str, rows: tuple[Row, ...]) -> float:
    """Return how many of the targets a reply names, and half as many again if it answers with one."""
    answer = answer_in(reply.strip(" \n\t`\"'*")).strip(" .`\"'*")
    total = 0.0
    for row in rows:
        # Of inputs whose target was never told, the simulator takes the beginning for the answer.
        target = re.escape(row.target if row.target is not None else row.texts[0][:40])
        # "a" is an article more often than an option.
        flags = re.NOFLAG if len(target) == 1 else re.IGNORECASE
        if row.target == "":
            continue
        total += re.search(rf"(?<!\w){target}(?!\w|[.,]\d)", reply, flags) is not None
        total += 0.5 * (re.match(rf"{target}(?!\w|[.,]\d)", answer, flags) is not None)
    return total


def _laid_out(contract: Contract, request: str, said: str) -> str:
    """Return `said` in the last part that the contract names, in a JSON object if one is shown, or bare."""
    if contract.blocks:
        last = len(contract.blocks) - 1
        inside = f"\n{said}\n" if "\n" in said else said
        parts = (
            f"{opening}{inside if place == last else _REMARK}{closing}".rstrip()
            for place, (_, opening, closing) in enumerate(contract.blocks)
        )
        return ("\n\n" if contract.ending else "\n").join((*parts, contract.ending)).rstrip()
    keys = list(dict.fromkeys(_KEY.findall(request))) if re.search(r"json|\{\s*\"", request, re.IGNORECASE) else []
    main = next((key for key in keys if _VERDICT_KEY.search(key)), None)
    if main is None or "\n" in said:
        return f"```\n{said}\n```" if contract.is_fenced else said
    is_number = re.fullmatch(r"-?\d+(?:\.\d+)?", said) is not None and f'"{said}"' not in request
    value: str | float = float(said) if is_number and "." in said else int(said) if is_number else said
    return json.dumps({key: value if key == main else _REMARK for key in keys})
