"""Landscapes: what a simulated model gets wrong, and what in a prompt mends or worsens it.

Competence is the chance that a model with a given prompt gets an example of a given error type right:

    competence = base + mends - harms + demonstrations - length, clipped to [floor, ceiling]

A landscape is written down once and then left alone: strategies are measured on it, not fitted to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from promptopt.errors import ConfigError, nearest


@dataclass(frozen=True)
class Mend:
    """Advice that mends an error type.

    Args:
        concepts: names of concepts; all of them must be in the prompt for the gain.
        gain: competence gained, in [0, 1].
    """

    concepts: tuple[str, ...]
    gain: float


@dataclass(frozen=True)
class ErrorType:
    """A kind of example that the model tends to get wrong for one reason.

    Args:
        weight: share of the examples, relative to the other types' weights.
        base: competence with a plain prompt, in [0, 1].
        mends: advice that helps; gains add up.
        harms: (concept, competence lost) for advice that hurts.
        demo_gain: competence gained from infinitely many right demonstrations of this very type; each
            one closes half of what is left.
    """

    weight: float
    base: float
    mends: tuple[Mend, ...] = ()
    harms: tuple[tuple[str, float], ...] = ()
    demo_gain: float = 0.0


@dataclass(frozen=True)
class Landscape:
    """Everything that decides how a simulated model responds to prompts.

    Args:
        name: what stands after `sim:` in a model name.
        description: one sentence for users.
        error_types: at least one.
        affinity: what an example's error type goes along with: its target, its length, or nothing.
        affinity_share: share of the examples whose type is decided by that, in [0, 1].
        floor: least competence.
        ceiling: greatest competence; what is missing to 1 is noise that no prompt mends.
        jitter: half-width of the difference that the exact wording of a prompt makes to an example's
            difficulty, mean zero; 0.1 flips about 7% of the answers between two equally good prompts.
        sampling_noise: half-width of what a draw at temperature 1 adds to that.
        free_tokens: instruction tokens that cost nothing.
        token_cost: competence lost per 100 instruction tokens beyond them.
        demo_spread: share of `demo_gain` that right demonstrations of other types give.
        demo_reasoned: factor on the effect of a demonstration that shows reasoning.
        demo_wrong: competence lost for each demonstration with a wrong output (at most four count).
        free_demos: demonstrations that cost nothing.
        demo_cost: competence lost for each one beyond them.
        label_bias: competence moved towards the label that most demonstrations have: won on its
            examples, lost on all others, in proportion to how lopsided they are.
        chatty: share of replies without an answer that can be extracted, if nothing in the prompt says
            or shows the format.
        unruly: the same share if the prompt does.
        marker: share of replies that close their reasoning with an "Answer:" line of their own accord.
        insight: chance that a writer who sees failures adds the advice that mends one of them.
        add: chance that a writer adds some advice of its own.
        drop: chance, for each piece of advice in the parent, that a writer drops it.
        sloppiness: chance that a writer breaks the output contract, or loses a passage it should keep.
        is_flat: prompts change nothing at all but the jitter; replies are always in a plain format.
    """

    name: str
    description: str
    error_types: tuple[ErrorType, ...]
    affinity: Literal["none", "target", "length"] = "none"
    affinity_share: float = 0.0
    floor: float = 0.02
    ceiling: float = 0.97
    jitter: float = 0.1
    sampling_noise: float = 0.15
    free_tokens: int = 220
    token_cost: float = 0.02
    demo_spread: float = 0.25
    demo_reasoned: float = 1.0
    demo_wrong: float = 0.04
    free_demos: int = 6
    demo_cost: float = 0.01
    label_bias: float = 0.05
    chatty: float = 0.2
    unruly: float = 0.01
    marker: float = 0.6
    insight: float = 0.45
    add: float = 0.4
    drop: float = 0.1
    sloppiness: float = 0.025
    is_flat: bool = False


def _mend(gain: float, *concepts: str) -> Mend:
    return Mend(concepts, gain)


_DEFAULT = Landscape(
    name="default",
    description="Mixed: some loss of format, four kinds of mistakes mended by advice, demonstrations help.",
    error_types=(
        ErrorType(0.30, 0.72, (_mend(0.13, "definitions"), _mend(0.06, "recheck")), (("hunch", 0.10),), 0.12),
        ErrorType(0.25, 0.55, (_mend(0.27, "negation"), _mend(0.10, "read_all")), (("concise", 0.05),), 0.18),
        ErrorType(0.25, 0.50, (_mend(0.30, "irrelevant"), _mend(0.10, "intent")), (("explain", 0.08),), 0.22),
        ErrorType(0.20, 0.40, (_mend(0.18, "step_by_step"), _mend(0.28, "step_by_step", "count"))),
    ),
    affinity="target",
    affinity_share=0.3,
    chatty=0.18,
)

_INSTRUCTIONS = Landscape(
    name="instructions",
    description="Advice decides; two kinds of mistakes need two pieces of advice together.",
    error_types=(
        ErrorType(0.25, 0.70, (_mend(0.24, "evidence"),), (("literal", 0.12),), 0.04),
        ErrorType(0.30, 0.45, (_mend(0.08, "irony"), _mend(0.38, "irony", "intent")), (("hunch", 0.10),), 0.05),
        ErrorType(0.25, 0.42, (_mend(0.12, "options"), _mend(0.38, "options", "doubt")), (("urgency", 0.06),)),
        ErrorType(0.20, 0.50, (_mend(0.25, "time_order"), _mend(0.15, "restate")), (("concise", 0.08),), 0.05),
    ),
    chatty=0.08,
    demo_spread=0.1,
)

_DEMOS = Landscape(
    name="demos",
    description="Demonstrations decide, those with reasoning most; advice matters little.",
    error_types=(
        ErrorType(0.35, 0.60, (_mend(0.05, "definitions"),), (("explain", 0.05),), 0.30),
        ErrorType(0.25, 0.45, (_mend(0.06, "doubt"),), (("hunch", 0.06),), 0.44),
        ErrorType(0.20, 0.40, (_mend(0.06, "evidence"),), (("abstain", 0.06),), 0.48),
        ErrorType(0.20, 0.50, (_mend(0.05, "read_all"),), (), 0.40),
    ),
    affinity="target",
    affinity_share=0.6,
    demo_spread=0.3,
    demo_reasoned=1.6,
    demo_wrong=0.07,
    free_demos=8,
    chatty=0.12,
)

_FORMAT = Landscape(
    name="format",
    description="Most of the loss is replies without an extractable answer; some advice is a trap.",
    error_types=(
        ErrorType(0.70, 0.90, (_mend(0.05, "recheck"),), (("abstain", 0.15), ("friendly", 0.05)), 0.03),
        ErrorType(0.30, 0.72, (_mend(0.20, "copy_exactly"),), (("formal", 0.10), ("expert", 0.05)), 0.08),
    ),
    affinity="length",
    affinity_share=0.5,
    chatty=0.45,
    unruly=0.015,
    marker=0.35,
)

_RUGGED = Landscape(
    name="rugged",
    description="Much advice harms, long prompts cost, and single changes often lead downhill.",
    error_types=(
        ErrorType(
            0.30,
            0.62,
            (_mend(0.30, "literal"),),
            (("intent", 0.15), ("everyday", 0.10), ("irony", 0.12), ("urgency", 0.06)),
            0.06,
        ),
        ErrorType(
            0.30,
            0.55,
            (_mend(-0.06, "options"), _mend(0.42, "options", "negation")),
            (("hunch", 0.15), ("concise", 0.08), ("expert", 0.06)),
            0.08,
        ),
        ErrorType(
            0.20,
            0.50,
            (_mend(0.20, "units"), _mend(0.22, "recheck")),
            (("step_by_step", 0.15), ("definitions", 0.08), ("formal", 0.10)),
            0.05,
        ),
        ErrorType(
            0.20,
            0.48,
            (_mend(-0.05, "evidence"), _mend(0.45, "evidence", "irrelevant")),
            (("read_all", 0.08), ("calm", 0.05), ("explain", 0.12), ("doubt", 0.10)),
        ),
    ),
    jitter=0.15,
    free_tokens=90,
    token_cost=0.07,
    free_demos=2,
    demo_cost=0.03,
    chatty=0.12,
)

_MISLEADING = Landscape(
    name="misleading",
    description="Demonstrations mislead and bias towards their labels; the right advice without any wins.",
    error_types=(
        ErrorType(0.40, 0.62, (_mend(0.22, "literal"), _mend(0.10, "definitions")), (("everyday", 0.10),), -0.12),
        ErrorType(
            0.35, 0.55, (_mend(0.28, "everyday", "intent"), _mend(0.12, "intent")), (("hunch", 0.08),), -0.10
        ),
        ErrorType(0.25, 0.58, (_mend(0.34, "restate"),), (("concise", 0.06), ("calm", 0.04)), 0.04),
    ),
    affinity="target",
    affinity_share=0.4,
    demo_wrong=0.10,
    free_demos=2,
    demo_cost=0.02,
    label_bias=0.18,
    chatty=0.10,
)

_REASONING = Landscape(
    name="reasoning",
    description="Reasoning first gives most, but then the answer needs a marker to be found.",
    error_types=(
        ErrorType(0.30, 0.75, (_mend(0.14, "step_by_step"), _mend(0.05, "recheck")), (("hunch", 0.1),), 0.05),
        ErrorType(
            0.40, 0.38, (_mend(0.38, "step_by_step"), _mend(0.15, "arithmetic")), (("concise", 0.06),), 0.12
        ),
        ErrorType(0.30, 0.35, (_mend(0.30, "step_by_step"), _mend(0.25, "step_by_step", "units")), (), 0.12),
    ),
    affinity="length",
    affinity_share=0.4,
    demo_reasoned=2.0,
    chatty=0.10,
    marker=0.45,
)  # fmt: skip

_NULL = Landscape(
    name="null",
    description="No prompt, demonstration or format changes the accuracy: whatever seems to help is luck.",
    error_types=(ErrorType(1.0, 0.6),),
    token_cost=0.0,
    demo_spread=0.0,
    demo_wrong=0.0,
    demo_cost=0.0,
    label_bias=0.0,
    chatty=0.0,
    unruly=0.0,
    is_flat=True,
)

LANDSCAPES: Mapping[str, Landscape] = MappingProxyType(
    {
        item.name: item
        for item in (_DEFAULT, _INSTRUCTIONS, _DEMOS, _FORMAT, _RUGGED, _MISLEADING, _REASONING, _NULL)
    }
)
"""All landscapes by name."""


def landscape(name: str) -> Landscape:
    """Return the landscape of that name; the model names `sim` and `sim:NAME` are understood too.

    Raises:
        ConfigError: there is none of that name.
    """
    short = "default" if name == "sim" else name.removeprefix("sim:")
    if short not in LANDSCAPES:
        raise ConfigError(f"landscape {short!r} does not exist; {nearest(short, LANDSCAPES)}")
    return LANDSCAPES[short]
