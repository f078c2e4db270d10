"""Procedurally generated tasks for benchmarks: a stated rule gives the target of every input.

Four kinds: `label` (which of four teams a message is for), `choice` (an option letter), `number` (a small
calculation), `json` (fields of an order). Inputs are English, 40 to 300 characters, and all distinct.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from promptopt.errors import ConfigError, nearest
from promptopt.types import Example

INITIAL_PROMPTS: Mapping[str, str] = MappingProxyType(
    {
        "label": "Which team should get this message: billing, delivery, account or product?",
        "choice": "Which of the four options is right?",
        "number": "Work out the total.",
        "json": "Extract customer, item, quantity and city from the order as JSON.",
    }
)
"""Plain one-sentence prompts to start from, by kind."""

DESCRIPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "label": "Messages to a web shop go to the team that handles what the customer asks for: billing "
        "(charges, refunds), delivery (parcels), account (login, profile) or product (how goods work). "
        "What is mentioned in passing does not matter.",
        "choice": "Each question compares four things by one attribute and asks for the one that has most "
        "or least of it; the answer is its letter.",
        "number": "Each story gives quantities and asks for a total; the answer is a whole number.",
        "json": "Orders are written as plain sentences; the answer is a JSON object with the keys "
        "customer, item, quantity (a number) and city.",
    }
)
"""What each kind is about, for the optimizer model."""

# fmt: off
_NAMES = (
    "Ada", "Ben", "Carla", "Dmitri", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kavya", "Liam",
    "Mona", "Noah", "Olga", "Pedro", "Qiang", "Rosa", "Sven", "Tara", "Umar", "Vera", "Wanda", "Xenia", "Zoe",
)
_CITIES = (
    "Lisbon", "Turin", "Bergen", "Leeds", "Krakow", "Ghent", "Malmo", "Porto", "Graz", "Nantes", "Tampere",
    "Riga", "Cork", "Bilbao", "Basel",
)
# fmt: on
_GOODS = (
    "desk lamp",
    "rain jacket",
    "coffee grinder",
    "travel mug",
    "yoga mat",
    "bike helmet",
    "wall clock",
    "water filter",
    "tea kettle",
    "backpack",
    "notebook",
    "phone case",
    "garden hose",
    "tool box",
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class _Row(NamedTuple):
    text: str
    target: str


_REQUESTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "billing": (
            "I was charged twice for the {good}.",
            "please send me the invoice for the {good}.",
            "when will I get the money back for the {good}?",
            "the {good} cost more on my card than in the shop.",
        ),
        "delivery": (
            "the parcel with the {good} has still not arrived.",
            "can you bring the {good} to another address in {city}?",
            "tracking has shown no news of my {good} since {day}.",
            "the driver left the {good} at the wrong door in {city}.",
        ),
        "account": (
            "I cannot log in to look at my {good} order.",
            "my password reset mail never comes, so the {good} stays in the cart.",
            "please change the mail address that I used for the {good}.",
            "close my profile, I only wanted the {good}.",
        ),
        "product": (
            "how do I clean the {good}?",
            "the {good} makes a strange noise when I use it.",
            "is there a spare part for the {good}?",
            "the {good} is smaller than the picture made me think.",
        ),
    }
)
_ASIDES = (
    "My order from {day} was paid without trouble, by the way.",
    "The last parcel came to {city} in two days, not that it matters now.",
    "I could log in just fine.",
    "My sister {name} has the same one and loves it.",
    "It is not about the refund that I asked for in spring.",
    "I have been a customer since I moved to {city}.",
)
_OPENINGS = ("Hello,", "Hi, {name} here:", "Good morning,", "Dear team,", "Hey,")


def _label(rng: random.Random) -> _Row:
    team = rng.choice(sorted(_REQUESTS))
    request = rng.choice(_REQUESTS[team])
    asides = rng.sample(_ASIDES, rng.choice((0, 1, 1, 2)))
    body = [request[0].upper() + request[1:], *asides]
    if rng.random() < 0.4:
        body.reverse()
    text = " ".join((rng.choice(_OPENINGS), *body, rng.choice(("Thanks!", "Regards, {name}", "Yours, {name}"))))
    return _Row(_filled(text, rng), team)


_ATTRIBUTES = (
    ("costs {n} euros", "cheapest", min),
    ("weighs {n} grams", "heaviest", max),
    ("lasts {n} months", "the one that lasts longest", max),
    ("is {n} centimetres wide", "narrowest", min),
)


def _choice(rng: random.Random) -> _Row:
    goods = rng.sample(_GOODS, 4)
    numbers = rng.sample(range(12, 96), 4)
    phrase, asked, pick = rng.choice(_ATTRIBUTES)
    letter = "ABCD"[numbers.index(pick(numbers))]
    facts = [f"the {good} {phrase.format(n=number)}" for good, number in zip(goods, numbers, strict=True)]
    rng.shuffle(facts)
    options = " ".join(f"({mark}) {good}" for mark, good in zip("ABCD", goods, strict=True))
    place = rng.choice(_CITIES)
    text = f"In a shop in {place}, {', '.join(facts)}. Which is {asked}? {options}"
    return _Row(text, letter)


_STORIES = (
    ("{name} buys {a} boxes with {b} pens each and gives {c} pens away.", "How many pens are left?", -1),
    ("A bus from {city} has {a} rows of {b} seats, and {c} more stand.", "How many can it carry?", 1),
    ("{name} reads {a} pages a day for {b} days and {c} on {day}.", "How many pages is that?", 1),
    ("{name} packs {a} crates of {b} apples in {city}, but {c} are bad.", "How many are good?", -1),
    ("On {day} {a} guests eat {b} rolls each, and {c} rolls remain.", "How many were there?", 1),
)  # story, question, sign of c in a * b + c


def _number(rng: random.Random) -> _Row:
    story, question, sign = rng.choice(_STORIES)
    a, b, c = rng.randint(3, 40), rng.randint(4, 25), rng.randint(2, 11)
    aside = rng.choice(("", "", " The shop opened {d} years ago.", " It takes {d} minutes to get there."))
    # The aside goes before the question, so that it cannot simply be cut off.
    text = f"{_filled(story, rng, a=a, b=b, c=c)}{aside.format(d=rng.randint(2, 60))} {question}"
    return _Row(text, str(a * b + sign * c))


_ORDERS = (
    "{who} from {town} would like {n} pieces of the {thing}, if possible by {day}.",
    "Please send {n} x {thing} to {who}, who lives in {town} now; {name} will pay.",
    "This is {who}. Last time I took {m}, this time make it {n} of the {thing}, to {town} as always.",
    "For {town}: one parcel with {n} times the {thing}, ordered by {who} on {day}.",
)


def _json(rng: random.Random) -> _Row:
    who, town, thing = rng.choice(_NAMES), rng.choice(_CITIES), rng.choice(_GOODS)
    n, m = rng.sample(range(2, 40), 2)
    text = rng.choice(_ORDERS).format(who=who, town=town, thing=thing, n=n, m=m, day="{day}", name="{name}")
    if rng.random() < 0.4:
        text += " " + rng.choice(("A gift card from {city} is enclosed.", "{name} from {city} says hello."))
    target = {"customer": who, "item": thing, "quantity": n, "city": town}
    return _Row(_filled(text, rng), json.dumps(target))


def _filled(text: str, rng: random.Random, **numbers: int) -> str:
    return text.format(
        name=rng.choice(_NAMES),
        city=rng.choice(_CITIES),
        day=rng.choice(_DAYS),
        good=rng.choice(_GOODS),
        **numbers,
    )


_MAKERS: Mapping[str, Callable[[random.Random], _Row]] = MappingProxyType(
    {"label": _label, "choice": _choice, "number": _number, "json": _json}
)


def synthetic_task(
    kind: str, *, seed: int, n_train: int = 100, n_dev: int = 100, n_test: int = 500
) -> tuple[tuple[Example, ...], tuple[Example, ...], tuple[Example, ...]]:
    """Return train, dev and test splits with distinct inputs in one column, `input`.

    Args:
        kind: label, choice, number or json.
        seed: equal seeds give equal data.
        n_train: rows of train; likewise n_dev and n_test; each kind has tens of thousands of inputs.

    Raises:
        ConfigError: there is no such kind.
    """
    if kind not in _MAKERS:
        raise ConfigError(f"synthetic kind {kind!r} does not exist; {nearest(kind, _MAKERS)}")
    rng = random.Random(f"{kind}/{seed}")
    rows: dict[str, str] = {}
    while len(rows) < n_train + n_dev + n_test:
        row = _MAKERS[kind](rng)
        rows.setdefault(row.text, row.target)
    examples = tuple(
        Example(f"{kind}-{place}", {"input": text}, target) for place, (text, target) in enumerate(rows.items())
    )
    return examples[:n_train], examples[n_train : n_train + n_dev], examples[n_train + n_dev :]
