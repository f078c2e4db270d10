"""What the strategies are compared on: the frozen landscapes, and four variations that nothing was tuned on.

A world is a simulated model, a kind of data, and how its optimizer model misbehaves. The variations were written
down before the default strategy was tuned, and are left alone since.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from promptopt.providers import SimulatorTransport
from promptopt.simulator import LANDSCAPES, Simulator, landscape
from promptopt.simulator.landscapes import Landscape
from promptopt.task import Task
from promptopt.types import Request, Response


@dataclass(frozen=True)
class World:
    """What a strategy has to do with.

    Args:
        landscape: how the task model responds to prompts, and the optimizer model to failures.
        kinds: of data, in turn by seed.
        is_rough: the optimizer model talks much and keeps to no form.
    """

    landscape: Landscape
    kinds: tuple[str, ...] = ("label", "choice")
    is_rough: bool = False

    def simulator(self, task: Task, seed: int) -> Simulator:
        """Return the model, told the task's data."""
        simulator = Simulator(self.landscape, seed=seed)
        simulator.learn((*task.train, *task.dev, *task.test))
        return simulator


def _harmful_demos(base: Landscape) -> Landscape:
    """Demonstrations of every type make the model worse, and pull it towards their labels."""
    types = tuple(replace(kind, demo_gain=-0.12) for kind in base.error_types)
    return replace(base, name="harmful-demos", error_types=types, label_bias=0.15, free_demos=0)


LANDSCAPE_WORLDS: Mapping[str, World] = MappingProxyType(
    {name: World(item) for name, item in LANDSCAPES.items() if name != "null"}
)
VARIATIONS: Mapping[str, World] = MappingProxyType(
    {
        # Advice decides, and every demonstration harms.
        "harmful-demos": World(_harmful_demos(landscape("instructions"))),
        # Who sees a failure finds what mends it in one case of twenty; all else that it adds is drawn at random.
        "blind": World(replace(landscape("default"), name="blind", insight=0.05)),
        # Replies with thoughts, remarks, tags in capitals or missing, fences, and refusals (see `roughen`).
        "rough-writer": World(replace(landscape("reasoning"), name="rough-writer"), is_rough=True),
        # Objects of four fields: a wrong answer scores .75 or less, not 0.
        "graded": World(replace(landscape("default"), name="graded"), kinds=("json",)),
    }
)
WORLDS: Mapping[str, World] = MappingProxyType({**LANDSCAPE_WORLDS, **VARIATIONS})

_TAG = re.compile(r"</?[A-Za-z_]+>|```\w*|\[\[ ## \w+ ## \]\]")
_OPENINGS = (
    "Certainly! I looked at this carefully, and here is what I came up with:\n\n",
    "<think>The user wants something better. Maybe <prompt>something short</prompt> would do? No, I should say "
    "more than that.</think>\n",
    "Great question! Let me think step by step about what could be improved before I write anything down.\n\n",
    "## Analysis\n\n- The wording is fine.\n- It could be clearer.\n\n## Result\n\n",
)
_ENDINGS = (
    "\n\nLet me know if you would like me to adjust the tone!",
    "\n\n---\n*Note: this version keeps the meaning of the original.*",
)


def roughen(text: str, salt: str) -> str:
    """Return a written reply as a careless model would have given it; the same for the same salt.

    One reply in two gets an opening, one in three a closing remark. The marks that frame its parts (tags, fences,
    fields) are left alone in half of the replies; else they are in capitals, bold, within a fence, the last one or
    all of them are missing, or the reply is a refusal (one in twenty).
    """
    draw = random.Random(hashlib.sha256(f"{salt}\n{text}".encode("utf-8", "surrogatepass")).digest())
    kind = draw.random()
    if kind < 0.05:
        return "I'm sorry, but I can't help with that."
    marks = list(_TAG.finditer(text))
    if kind < 0.15:
        text = _TAG.sub(lambda found: found[0].upper(), text)
    elif kind < 0.25:
        text = _TAG.sub(lambda found: f"**{found[0]}**", text)
    elif kind < 0.35:
        text = f"```xml\n{text}\n```"
    elif kind < 0.45 and marks:
        text = text[: marks[-1].start()] + text[marks[-1].end() :]
    elif kind < 0.5:
        text = _TAG.sub("", text)
    opening = draw.choice(_OPENINGS) if draw.random() < 1 / 2 else ""
    ending = draw.choice(_ENDINGS) if draw.random() < 1 / 3 else ""
    return f"{opening}{text}{ending}"


class RoughTransport(SimulatorTransport):
    """The simulator as an optimizer model that keeps to no form."""

    async def send(self, request: Request, timeout_s: float) -> Response:
        """Return the simulated answer, roughened."""
        response = await super().send(request, timeout_s)
        return replace(response, text=roughen(response.text, request.digest + request.sample))
