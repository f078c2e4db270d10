"""Writing prompts and criticism, as a model does that is asked to be a prompt engineer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from promptopt.simulator import ask
from promptopt.simulator.checklist import find_checklist
from promptopt.simulator.comparison import find
from promptopt.simulator.concepts import CONCEPTS, concepts_of
from promptopt.simulator.index import Hit, Index, Row
from promptopt.simulator.landscapes import Landscape
from promptopt.simulator.parents import criticism, description, parents
from promptopt.simulator.rating import find_rating
from promptopt.simulator.rewrite import Draws, insert, rewrite, say
from promptopt.simulator.verdict import checked, judged, rated

_MEANING = re.compile(r"paraphras|same meaning|keep the meaning|preserv\w+ the meaning|semantic", re.IGNORECASE)
_DIVERSE = re.compile(r"\bdivers\w+|\bdifferent\b|\bdistinct\b|\bvaried\b|\bunique\b", re.IGNORECASE)
_TRIES = 20  # at a prompt unlike the others of the same reply, where they are to differ
_CHATTER = ("Sure, here is a new version.", "Of course! I tried to make it clearer:")
_REMARKS = (
    "The inputs are short everyday texts, and the answers follow a fixed pattern.",
    "The wording was made clearer, and the rest was left as it is.",
    "The task is well defined; what is left open is how to treat the harder inputs.",
)


@dataclass(frozen=True)
class Material:
    """A writing request.

    Args:
        text: the whole conversation.
        latest: the part after the last reply in it, with the system's messages; mostly all of it.
        index: the known inputs.
        landscape: gives the writer's habits, and what would mend a shown failure.
        labels: all labels of the task; () = none.
        salt: what tells draws apart; equal for equal requests at temperature 0.
    """

    text: str
    latest: str
    index: Index
    landscape: Landscape
    labels: tuple[str, ...]
    salt: str


def write(material: Material) -> str | None:
    """Return the reply to a request that asks for no answer; None if nothing seems to be asked."""
    text = material.text
    hits = list(material.index.hits(text))
    tail = text[hits[-1].end :] if hits else text
    digest = hashlib.blake2b(f"{material.salt}\n{text}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
    draws = Draws(digest)
    judgement = _judgement(material, draws)
    if judgement is not None:
        return judgement
    wish = ask.wish(tail) or ask.wish(text)
    sources = parents(text, hits)
    contract = _contract(tail, text, sources)
    shown = _shown(hits, material)
    names = contract.keys or [name for name, _, _ in contract.blocks]
    if wish == "critique" or (wish == "prompt" and names and _is_criticism(names)):
        reasons = _critique(material, shown, contract.count, draws)
        return _laid_out(contract, reasons, _remark(draws), draws, 0.0)
    if wish == "prompt":
        return _new_prompts(material, sources, hits, shown, contract, draws)
    if ask.wants_prose(text):
        return _laid_out(contract, [_remark(draws)], _remark(draws), draws, 0.0)
    return None


def _contract(tail: str, text: str, sources: Sequence[str]) -> ask.Contract:
    """Return the form that the request asks for outside the prompts that it shows; else the form at all."""
    tail_only, text_only = tail, text
    for source in sources:
        tail_only, text_only = tail_only.replace(source, "shown"), text_only.replace(source, "shown")
    found = ask.contract(tail_only, text_only)
    return found if found.is_special else ask.contract(tail, text)


def _judgement(material: Material, draws: Draws) -> str | None:
    """Return the verdicts or the rating that are asked for; None = neither is."""
    for text in dict.fromkeys((material.latest, material.text)):
        checklist = find_checklist(text, material.index)
        if checklist is not None:
            return checked(checklist, draws)
        comparison = find(text, material.index)
        if comparison is not None:
            return judged(comparison, draws)
        rating = find_rating(text, material.index)
        if rating is not None:
            return rated(rating, draws)
    return None


def _shown(hits: list[Hit], material: Material) -> list[Row]:
    rows = {row.key: row for hit in hits for row in material.index.rows(hit.text)[:1]}
    return list(rows.values())


def _is_criticism(names: Sequence[str]) -> bool:
    critical = re.compile(r"feedback|criti|reason|analy|summary|observ|descri", re.IGNORECASE)
    return all(critical.search(name) for name in names)


def _remark(draws: Draws) -> str:
    return draws.choice(_REMARKS)


def _new_prompts(
    material: Material, sources: list[str], hits: list[Hit], shown: list[Row], contract: ask.Contract, draws: Draws
) -> str:
    prompts: list[str] = []
    n_tries = _TRIES if _DIVERSE.search(material.text) else 1
    for _ in range(contract.count):
        for _ in range(n_tries):
            prompt = _new_prompt(material, sources, hits, shown, draws)
            if prompt not in prompts:
                break
        prompts.append(prompt)
    added = concepts_of(prompts[0]) - concepts_of("\n".join(sources))
    remark = "The new version says more plainly what to do."
    if added:
        remark = f"What was missing is this advice: {CONCEPTS[min(added)].phrasings[0]}"
    return _laid_out(contract, prompts, remark, draws, material.landscape.sloppiness)


def _new_prompt(material: Material, sources: list[str], hits: list[Hit], shown: list[Row], draws: Draws) -> str:
    habits = material.landscape
    advice: list[str] = []
    if not sources:
        base = description(material.text, hits)
        targets = sorted({row.target for row in shown if row.target in material.labels})
        if targets and not any(target in base for target in targets):
            base += f" Possible answers: {', '.join(targets)}."
    elif len(sources) == 1:
        base = sources[0]
    else:
        # Of a long list, the later ones count more: lists of scored prompts end with the best.
        base, *others = draws.weighted_sample(sources, range(1, len(sources) + 1), min(3, len(sources)))
        advice = sorted(frozenset().union(*map(concepts_of, others)) - concepts_of(base))
        advice = [name for name in advice if draws.chance(0.8)]
    present = set(concepts_of(base)) | set(advice)
    share = 0.5 if _MEANING.search(material.text) else 1.0
    named = sorted(concepts_of(criticism(material.text)) - present)
    advice += [name for name in named if draws.chance(0.7)][:3]
    if shown:
        advice += _lessons(habits, shown, present | set(advice), draws) if draws.chance(share) else []
    for chance in (habits.add * share, habits.add * share * 0.3):
        if draws.chance(chance):
            advice.append(_any_advice(present | set(advice), draws))
    body = rewrite(base, habits, draws)
    fresh = [name for name in dict.fromkeys(advice) if name not in concepts_of(body)]
    return insert(body, [say(name, draws) for name in fresh])


def _any_advice(present: set[str], draws: Draws) -> str:
    names = [name for name in CONCEPTS if name not in present] or list(CONCEPTS)
    return draws.weighted_sample(names, [CONCEPTS[name].commonness for name in names], 1)[0]


def _lessons(habits: Landscape, shown: list[Row], present: set[str], draws: Draws) -> list[str]:
    """Return the advice drawn from one of the shown inputs: with insight what mends it, else anything."""
    row = draws.choice(shown)
    if habits.is_flat or not draws.chance(habits.insight):
        return [_any_advice(present, draws)]
    if draws.chance(habits.chatty) and not present & {"only_answer", "answer_line"}:
        return [draws.choice(("only_answer", "answer_line"))]
    mends = [
        missing
        for mend in habits.error_types[row.kind].mends
        if (missing := [name for name in mend.concepts if name not in present])
    ]
    if not mends:
        return [_any_advice(present, draws)]
    missing = draws.choice(mends)
    # Seeing that two things are needed together takes more than seeing one.
    return missing if draws.chance(0.4) else missing[:1]


def _critique(material: Material, shown: list[Row], count: int, draws: Draws) -> list[str]:
    sources = parents(material.text, list(material.index.hits(material.text)))
    present = set(concepts_of("\n".join(sources)))
    points: list[str] = []
    named: set[str] = set()
    if not shown:
        named.add(_any_advice(present, draws))
        points = [f"The wording leaves a gap. What helps: {say(name, draws)}" for name in named]
    for row in shown[:4]:
        lessons = _lessons(material.landscape, [row], present | named, draws)
        named.update(lessons)
        place = f'In "{row.texts[0][:40].strip()}..." the'
        for name in lessons:
            points.append(f"{place} wording leaves a gap. What helps: {say(name, draws)}")
    while len(points) < count:
        name = _any_advice(present | named, draws)
        named.add(name)
        points.append(f"Nothing is said about one more thing: {say(name, draws)}")
    if count > 1:
        return points[:count]
    return ["\n".join(f"{place}. {point}" for place, point in enumerate(points, 1))]


def _laid_out(contract: ask.Contract, texts: list[str], remark: str, draws: Draws, sloppiness: float) -> str:
    """Return the reply in the form that was asked for; a sloppy one breaks it or adds chatter outside."""
    slip = draws.uniform()
    body = "\n\n".join(texts)
    names = contract.keys or [name for name, _, _ in contract.blocks]
    main = max(range(len(names)), key=lambda place: (bool(ask.PROMPT_NAME.search(names[place])), place), default=0)
    if contract.keys:
        value = texts if contract.is_list or len(texts) > 1 else body
        whole = json.dumps(
            {name: value if place == main else remark for place, name in enumerate(names)}, ensure_ascii=False
        )
    elif contract.blocks:
        if contract.is_list:
            texts = [json.dumps(texts, ensure_ascii=False)]
        blocks = []
        for place, (_, opening, closing) in enumerate(contract.blocks):
            parts = texts if place == main else [remark]
            blocks += [f"{opening}{part}{closing}".rstrip() for part in parts]
        whole = "\n\n".join((*blocks, contract.ending)).rstrip()
    elif contract.is_list:
        whole = json.dumps(texts, ensure_ascii=False)
        whole = f"```json\n{whole}\n```" if contract.is_fenced else whole
    elif contract.is_fenced:
        whole = "\n\n".join(f"```\n{text}\n```" for text in texts)
    elif len(texts) > 1:
        whole = "\n".join(f"{place}. {text}" for place, text in enumerate(texts, 1))
    else:
        whole = body
    if slip < sloppiness / 2:
        return body
    if slip < sloppiness and whole != body:
        return f"{draws.choice(_CHATTER)}\n\n{whole}"
    return whole
