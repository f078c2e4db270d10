"""General pieces of advice that prompts give, how to say each, and how to recognise each in any wording.

A concept is recognised sentence by sentence: one of its rules must find all its word groups in the
same sentence, in any order, by word beginnings. So text from other tools and people counts too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType


@dataclass(frozen=True)
class Concept:
    """One piece of advice.

    Args:
        name: identifier that landscapes refer to.
        phrasings: sentences that say it; each is recognised as this concept.
        rules: alternatives; each is a tuple of word groups (`a|b` = beginnings of words) which all
            have to occur in one sentence.
        commonness: weight with which a writer without insight thinks of it; 1 = ordinary.
    """

    name: str
    phrasings: tuple[str, ...]
    rules: tuple[tuple[str, ...], ...]
    commonness: float = 1.0


_LIBRARY = (
    Concept(
        "read_all",
        ("Read the whole input before you decide.", "Go through the entire text first."),
        (("read|go through|look at", "whole|entire|everything|to the end|in full|complete input"),),
    ),
    Concept(
        "options",
        ("Weigh every option before you pick one.", "Compare all alternatives and rule out the weak ones."),
        (
            ("weigh|compare|consider|read|check|eliminate|rule out", "option|alternative|candidate|choices"),
            ("process of elimination",),
        ),
    ),
    Concept(
        "negation",
        ("Watch out for words like 'not' or 'never'.", "Mind words that negate or reverse a statement."),
        (("negat|'not'|\"not\"|'never'|double negative|reverse the meaning|reverse a statement",),),
    ),
    Concept(
        "units",
        ("Convert all quantities to the same unit first.", "Keep track of units of measure."),
        (("unit", "convert|same|track|check|mind|consistent|attention|measure"),),
    ),
    Concept(
        "step_by_step",
        ("Think step by step.", "Work through the problem one step at a time."),
        (
            ("step by step|step-by-step|one step at a time|stepwise|steps",),
            ("think|reason|work", "carefully through|aloud|out loud|before answering|before you answer"),
        ),
        2.0,
    ),
    Concept(
        "definitions",
        ("Keep in mind what each category means.", "Apply the definition of every label strictly."),
        (("defin|mean|descri", "label|categor|class|term|field"),),
    ),
    Concept(
        "irrelevant",
        ("Ignore details that do not matter for the answer.", "Disregard irrelevant information."),
        (
            ("ignore|disregard|skip|leave out|not be distracted|filter out",),
            ("irrelevant|distract", "detail|information|facts"),
        ),
    ),
    Concept(
        "irony",
        ("Look out for irony and sarcasm.", "Words may be meant ironically."),
        (("irony|ironic|sarcas|tongue-in-cheek|mocking",),),
    ),
    Concept(
        "recheck",
        ("Check your result once more before you give it.", "Verify your answer at the end."),
        (
            ("verify|double-check|double check|recheck|re-check|proofread|validate",),
            ("check", "result|answer|solution|work", "again|once more|before|finally"),
        ),
        1.5,
    ),
    Concept(
        "only_answer",
        ("Answer with the result only.", "Give nothing but the final answer."),
        (
            (
                "only|nothing but|nothing else|solely|without any|no other text",
                "answer|output|respond|reply|return|give",
            ),
            ("no explanation|without explan",),
        ),
        1.5,
    ),
    Concept(
        "answer_line",
        ("End with a line of the form 'Answer: ...'.", "Finish with a last line that begins with 'Answer:'."),
        (("answer:", "end|finish|close|conclude|last line|final line|line"),),
    ),
    Concept(
        "concise",
        ("Be concise.", "Keep your reply short."),
        (("concise|brief|succinct|terse|short", "be|keep|reply|answer|respon|is"),),
        1.5,
    ),
    Concept(
        "expert",
        ("You are a seasoned expert in this field.", "Act as an experienced specialist."),
        (("you are|act as|as a|imagine|play", "expert|specialist|professional|experienced|world-class"),),
        2.0,
    ),
    Concept(
        "urgency",
        ("This is very important for my career.", "You will be penalised for every mistake."),
        (("career|penali|urgent|stakes|lose my job|be fired|tip you|punish|reward you",),),
    ),
    Concept(
        "calm",
        ("Take a deep breath.", "Stay calm and take your time."),
        (("deep breath|stay calm|take your time|relax|no hurry|no rush",),),
    ),
    Concept(
        "count",
        ("Count the items one by one.", "Enumerate what is mentioned and tally it."),
        (("count the|count each|count every|count all|count how|counting|tally|enumerate|one by one",),),
    ),
    Concept(
        "time_order",
        ("Mind the order in which things happen.", "Put the events on a timeline."),
        (
            ("timeline|chronolog|time order|order of events|sequence of events",),
            ("order|what comes", "happen|events|first and"),
        ),
    ),
    Concept(
        "everyday",
        ("Use everyday knowledge about the world.", "Apply common sense."),
        (("common sense|commonsense|everyday knowledge|world knowledge|general knowledge",),),
    ),
    Concept(
        "literal",
        ("Take every word literally.", "Stick to what is literally written."),
        (("literal|at face value|word for word",),),
    ),
    Concept(
        "formal",
        ("Use a formal tone.", "Write in formal, professional language."),
        (("formal|academic", "tone|language|style|manner|write|use|english"),),
    ),
    Concept(
        "evidence",
        ("Point to the words that support your choice.", "Base the answer on evidence in the text."),
        (
            ("evidence|justif|ground|support",  "word|text|passage|choice|answer|input|decision|phrase"),
            ("key phrase|keyword|decisive word|key word",),
        ),
    ),
    Concept(
        "intent",
        ("Ask yourself what the writer mainly wants.", "Focus on the main purpose of the message."),
        (("intent|purpose|main point|main concern|mainly want|underlying|goal of the", ),),
    ),
    Concept(
        "doubt",
        ("In borderline cases prefer the more specific answer.", "If two fit, take the more specific one."),
        (("borderline|ambig|edge case|when in doubt|if in doubt|two fit|more specific",),),
    ),
    Concept(
        "copy_exactly",
        ("Copy names and values exactly as they are written.", "Keep the exact spelling."),
        (("copy|spell|verbatim|preserve|reproduce", "exact|as written|as they|verbatim|name|value"),),
    ),
    Concept(
        "arithmetic",
        ("Write down every intermediate result of the calculation.", "Do the arithmetic with care."),
        (("arithmetic|calculat|intermediate result|computation",),),
    ),
    Concept(
        "restate",
        ("Restate the question in your own words first.", "Rephrase the task before you solve it."),
        (("restate|rephrase|paraphrase|own words|reformulate", "question|task|problem|input|words|request"),),
    ),
    Concept(
        "explain",
        ("Explain your answer in detail.", "Give a detailed justification."),
        (
            ("explain|elaborate|detailed justification|detailed explanation|explain why",),
        ),
        1.5,
    ),
    Concept(
        "hunch",
        ("Trust your first impression.", "Go with your gut feeling."),
        (("first impression|gut feeling|your gut|instinct|intuition|hunch|not overthink|n't overthink",),),
    ),
    Concept(
        "friendly",
        ("Be friendly and polite.", "Use a warm, helpful tone."),
        (("friendly|polite|warm|cheerful|kind and|empath", ),),
    ),
    Concept(
        "abstain",
        ("If anything is uncertain, say that you cannot tell.", "Never guess; say so when you are unsure."),
        (("never guess|do not guess|don't guess|cannot tell|unsure|uncertain|not sure|insufficient",),),
    ),
)  # fmt: skip

CONCEPTS: Mapping[str, Concept] = MappingProxyType({concept.name: concept for concept in _LIBRARY})
"""All concepts by name."""

# Concepts after which a model writes its reasoning before the answer.
REASONING = frozenset({"step_by_step", "explain", "restate", "arithmetic"})

_SENTENCE = re.compile(r"(?<=[.!?;:])\s+|\n+")


def _pattern(group: str) -> re.Pattern[str]:
    words = "|".join(re.escape(word) if word[0] in "'\"" else r"\b" + re.escape(word) for word in group.split("|"))
    return re.compile(words)


_RULES = tuple(
    (concept.name, tuple(tuple(_pattern(group) for group in rule) for rule in concept.rules))
    for concept in _LIBRARY
)


def sentences(text: str) -> list[str]:
    """Return the non-empty sentences of `text`; line breaks end sentences too."""
    return [piece for piece in (part.strip() for part in _SENTENCE.split(text)) if piece]


@lru_cache(maxsize=100_000)
def concepts_of_sentence(sentence: str) -> frozenset[str]:
    """Return the names of the concepts that one sentence mentions; negated mentions count as well."""
    lowered = sentence.lower()
    return frozenset(
        name for name, rules in _RULES if any(all(group.search(lowered) for group in rule) for rule in rules)
    )


@lru_cache(maxsize=20_000)
def concepts_of(text: str) -> frozenset[str]:
    """Return the names of the concepts that `text` mentions, whatever the number of times."""
    return frozenset().union(*(concepts_of_sentence(sentence) for sentence in sentences(text)))
