"""What a request asks for, and in what form, judged as a reader of plain English would.

An input that the simulator knows, standing last, asks for an answer: nothing follows it, or a short cue,
or the user's own instructions. If what follows asks for a prompt or for criticism of one, the input was
material. So does an input that is followed by its own target: it is a demonstration, no question; then,
and if no known input is there, the whole request decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

Wish = Literal["answer", "prompt", "critique", "prose", "unsure"]

_OBJECT = r"prompt|instruction|variable|system message|feedback|critique|criticism|suggestion"
_VERB = (
    r"writ|propos|generat|creat|produc|provid|suggest|rewrit|improv|revis|paraphras|refin|craft|combin|merg|"
    r"return|giv|design|draft|send|optimi[sz]|modif|rephras|mutat|updat|compos|formulat|come up with|develop|"
    r"shorten|simplif|respond with|reply with|output|edit|put|wrap|infer|find|guess|start with|starting with"
)
_MAKE = re.compile(rf"\b(?:{_VERB})\w*\b[^.?!\n]{{0,80}}?\b\w*(?:{_OBJECT})s?\b", re.IGNORECASE)
# "improve the prompt" is no wish in "what could improve the prompt" or "do not rewrite the prompt".
_IDLE = re.compile(r"(?:\bnot|n't|never|can|could|would|might|may|how to|used to|aspects to)\W+$", re.IGNORECASE)
_OBEY = re.compile(
    r"\b(?:according|follow\w*|per|as in|in line with|obey\w*|described in|stated in)\b", re.IGNORECASE
)
_CRITICAL = re.compile(r"reason|why|feedback|criti|weakness|drawback|flaw|mistake|suggestion", re.IGNORECASE)
_FAILURE = re.compile(
    r"\b(?:why|reasons?|explain|analy[sz]e|identify|diagnose|examine|what)\b[^\n]{0,120}"
    r"\b(?:wrong|fail\w*|mistakes?|errors?|incorrect\w*|mislead\w*)\b",
    re.IGNORECASE,
)
_MODEL = re.compile(r"\b(?:prompt|instruction|model|assistant|response|prediction|examples?)", re.IGNORECASE)
_OPEN_END = re.compile(rf"\b(?:{_OBJECT})s?(?: \w+)?\W{{0,4}}\s*(?:was|is|:)\W*$", re.IGNORECASE)
_SLOT = re.compile(rf"(?:<|\[\[ ## )\w*?({_OBJECT})\w*(?:>| ## \]\])", re.IGNORECASE)
_PROSE = re.compile(r"\b(?:write|describe|summari[sz]e|list|explain|respond with|observ\w+)\b", re.IGNORECASE)

_PAIR = re.compile(r"<([A-Za-z][\w-]*)>((?:(?!<\1>).)*?)</\1>", re.DOTALL)
_TAG = re.compile(r"<([A-Za-z][\w-]*)>")
_FIELD = re.compile(r"\[\[ ## (\w+) ## \]\]")
_BLANK = re.compile(
    r"^[\W_]*$|^\W*(?:and|to|or|your|the (?:new|improved|revised|complete|full|optimi[sz]ed|final|text)|"
    r"a new|new|improved|revised|provide|write|insert|put|summari[sz]e|analy[sz]e|only|here|complete|final)"
    r"\b.{0,130}$"
    r"|^\W*[A1] ?(?:/|\||or) ?[B2]\b.{0,130}$|^\W*[\[{(][^\n]{0,130}[\])}]\W*$",
    re.IGNORECASE | re.DOTALL,
)
_GIVE = re.compile(
    r"\b(?:send|return|give|put|provide|write|reply|respond|output|wrap|enclose|between|format|start)", re.I
)
_FENCE = re.compile(
    r"\b(?:within|in|inside|between|using|with|as)\b[^.\n]{0,40}(?:```|fenced|code block|triple back)", re.I
)
_COUNT = re.compile(
    r"\b(?:writ|generat|propos|giv|creat|provid|produc|suggest|output|return|list)\w*\b[^.\n]{0,20}?"
    r"\b(\d+|two|three|four|five|six|eight|ten)(?: [\w-]+){0,3} "
    r"(?:prompts|instructions|variants|variations|versions|candidates|reasons)",
    re.IGNORECASE,
)
_JSON = re.compile(r"\bJSON\b", re.IGNORECASE)
_KEY = re.compile(r"\"(\w+)\"\s*:")
_NAMED = re.compile(r"[`\"'](\w+)[`\"']")
_TEXTS = r"(?:prompts|instructions|strings|texts|variants|variations|versions|candidates)"
_HOW_MANY = re.compile(rf"\b(\d+|two|three|four|five|six|eight|ten)(?: [\w-]+){{0,3}} {_TEXTS}\b", re.IGNORECASE)
_LIST = re.compile(rf"(?=.*\b(?:JSON|Python)\b)(?=.*\b(?:array|list)\b)(?=.*\b{_TEXTS}\b)", re.I | re.S)
_ASKING = re.compile(rf"\W*(?:please )?\b(?:{_VERB}|answer|reply|respond|fill|format)\w*\b", re.IGNORECASE)
_WRITTEN = re.compile(rf"{_OBJECT}|template|system|reason|analy|summary|observ|descri", re.IGNORECASE)
_SOME = 3  # prompts in a list for which no number is named
_NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "eight": 8, "ten": 10}
PROMPT_NAME = re.compile(r"prompt|instruct|variable|template|system", re.IGNORECASE)


@dataclass(frozen=True)
class Contract:
    """The form in which a written reply is wanted; keys come before parts, and parts before a fence.

    Args:
        blocks: (name, opening, closing) of each part, in order; () = no parts named.
        ending: text after all of them.
        is_fenced: the prompt belongs into a fenced block.
        count: how many prompts are wanted, 1 to 10.
        keys: names of the fields of the JSON object that is wanted; () = none is.
        is_list: the prompts are wanted as a list in JSON.
    """

    blocks: tuple[tuple[str, str, str], ...] = ()
    ending: str = ""
    is_fenced: bool = False
    count: int = 1
    keys: tuple[str, ...] = ()
    is_list: bool = False

    @property
    def is_special(self) -> bool:
        """Whether another form than plain text is wanted."""
        return bool(self.blocks or self.keys) or self.is_fenced or self.is_list


@lru_cache(maxsize=20_000)
def wish(text: str) -> Wish | None:
    """Return what `text` asks to be written, prompt or critique; None = neither."""
    found: Wish | None = None
    for match in _MAKE.finditer(text):
        if _IDLE.search(text[max(0, match.start() - 14) : match.start()]) or _OBEY.search(match.group()):
            continue
        if not _CRITICAL.search(match.group()):
            return "prompt"
        found = "critique"
    for name in (*_SLOT.findall(text[-600:]), *_objects(wanted_keys(text[-700:]))):
        if not _CRITICAL.search(name):
            return "prompt"
        found = found or "critique"
    if found is None and any(_MODEL.search(match.group()) for match in _FAILURE.finditer(text)):
        found = "critique"
    if found is None and _OPEN_END.search(text):
        found = "prompt"
    return found


def wants_prose(text: str) -> bool:
    """Return whether `text` asks for some text other than an answer."""
    return _PROSE.search(text) is not None


_CONNECTOR = re.compile(r"^\s*(?:(?:\S+\s+){0,2}\S*[:>=\-'\"\](#,|\n\t]|[\W_]*)\s*['\"`*<(\[]*$")


def is_followed_by(tail: str, target: str, labels: tuple[str, ...]) -> bool:
    """Return whether `tail` begins with the target as an output, after a cue of at most three words."""
    near, sought = tail[: len(target) + 60].lower(), target.lower()
    start = near.find(sought)
    # A letter within a word ("answer" for A) is no output.
    while start >= 0 and (near[:start][-1:].isalnum() or tail[start + len(target) :][:1].isalnum()):
        start = near.find(sought, start + 1)
    if not target or start < 0 or not _CONNECTOR.match(tail[:start]):
        return False
    rest = tail[start + len(target) :]
    # "Labels: billing, technical or account" lists labels and is no output.
    listed = re.match(r"['\"]?\s*(?:,|/|\||\bor\b|\band\b)\s*(?:or\s+|and\s+)?['\"]?(\w+)", rest)
    return not (listed and any(label.lower().startswith(listed.group(1).lower()) for label in labels))


def contract(tail: str, whole: str) -> Contract:
    """Return the form that `tail` asks for or, if it names none, `whole`."""
    sentences = _sentences(whole[-1500:])
    lists = [sentence for sentence in sentences if _LIST.search(sentence) and _ASKING.search(sentence)]
    count = _COUNT.search(tail) or next(filter(None, map(_HOW_MANY.search, lists)), None)
    number = _SOME if lists else 1
    if count:
        word = count.group(1).lower()
        number = max(1, min(10, _NUMBERS.get(word) or int(word)))
    return replace(_parts(tail, whole), count=number, is_list=bool(lists))


def _parts(tail: str, whole: str) -> Contract:
    for text in (tail, whole):
        keys = wanted_keys(text[-700:])
        if keys:
            return Contract(keys=keys)
        fields = wanted_fields(text[-700:])
        answers = [name for name in fields if name != "completed"]
        if answers:
            blocks = tuple((name, f"[[ ## {name} ## ]]\n", "\n\n") for name in answers)
            return Contract(blocks, "[[ ## completed ## ]]" if "completed" in fields else "")
        if "<START>" in text and "<END>" in text:
            return Contract((("start", "<START>", "<END>"),))
        names = _tag_names(text, whole)
        if names:
            return Contract(tuple((name, f"<{name}>", f"</{name}>") for name in names))
        if _FENCE.search(text):
            return Contract(is_fenced=True)
    return Contract()


def wanted_fields(text: str) -> list[str]:
    """Return the names of marked fields that the end of `text` asks to be filled, in order."""
    start = max(text.lower().rfind(word) for word in ("respond", "output field", "reply with"))
    return list(dict.fromkeys(_FIELD.findall(text[start:]))) if start >= 0 else []


def _objects(names: Iterable[str]) -> list[str]:
    return [name for name in names if re.search(_OBJECT, name, re.IGNORECASE)]


def wanted_keys(text: str) -> tuple[str, ...]:
    """Return the names of the fields of a JSON object in which a prompt or criticism is asked for, in order."""
    for sentence in reversed(_sentences(text)):
        if _JSON.search(sentence) and _ASKING.search(sentence):
            below = text[text.rfind(sentence) :]
            names = _KEY.findall(sentence) or _NAMED.findall(sentence) or _KEY.findall(below)
            return tuple(dict.fromkeys(names)) if any(map(_WRITTEN.search, names)) else ()
    return ()


def is_contract(paragraph: str) -> bool:
    """Return whether a paragraph says in which named fields to reply to the request itself."""
    asks = any(_ASKING.match(sentence) for sentence in _sentences(paragraph))
    return asks and bool(wanted_fields(paragraph) or wanted_keys(paragraph))


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+|\n\n+", text)


def _tag_names(text: str, whole: str) -> list[str]:
    pairs = [name for name, inside in _PAIR.findall(text) if is_blank(inside)]
    if pairs:
        return list(dict.fromkeys(pairs))
    # Tags around material were mentioned to point at it.
    names: dict[str, None] = {}
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", text[-1500:]):
        if _GIVE.search(sentence) and "</" not in sentence:
            names.update(dict.fromkeys(_TAG.findall(sentence)))
    return [name for name in names if not _is_filled(name, whole)] or list(names)


def _is_filled(name: str, whole: str) -> bool:
    pairs = re.findall(rf"<{name}>((?:(?!<{name}>).)*?)</{name}>", whole, re.DOTALL)
    return any(not is_blank(inside) for inside in pairs)


def is_blank(inside: str) -> bool:
    """Return whether the content of a pair of tags is a gap to fill, not material."""
    return _BLANK.match(inside.strip()) is not None
