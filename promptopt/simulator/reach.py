"""The best that any prompt can reach on a landscape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import combinations

from promptopt.simulator.concepts import CONCEPTS, REASONING
from promptopt.simulator.index import Row
from promptopt.simulator.landscapes import Landscape
from promptopt.simulator.reading import Shown, competence

# What a plain task sentence and a format directive take at least.
_PLAIN_TOKENS = 30.0


def best_competence(
    landscape: Landscape, rows: Sequence[Row], below: Callable[[float, float, float], float]
) -> float:
    """Return the greatest expected number of right, well-formed answers over all prompts.

    Args:
        below: chance that a difficulty with jitter lies below a bound.
    """
    jitter = landscape.jitter
    malformed = 0.0 if landscape.is_flat else landscape.unruly
    formed = [1 - below(row.unruliness, jitter, malformed) for row in rows]

    @cache
    def share(kind: int, value: float) -> float:
        return sum(
            form * below(row.difficulty, jitter, value)
            for row, form in zip(rows, formed, strict=True)
            if row.kind == kind
        )

    return max(sum(share(kind, value) for kind, value in enumerate(values)) for values in set(_choices(landscape)))


def _choices(landscape: Landscape) -> Iterator[tuple[float, ...]]:
    names = sorted({name for kind in landscape.error_types for mend in kind.mends for name in mend.concepts})
    demo_sets = [tuple(_demos(landscape, n, is_reasoned)) for n in range(13) for is_reasoned in (False, True)]
    for size in range(len(names) + 1):
        for chosen in combinations(names, size):
            n_chars = sum(min(map(len, CONCEPTS[name].phrasings)) for name in chosen)
            for demos in demo_sets:
                reasoned = bool(demos) and demos[0].is_reasoned
                concepts = frozenset(chosen) | (REASONING & {"step_by_step"} if reasoned else frozenset())
                yield competence(landscape, concepts, _PLAIN_TOKENS + n_chars / 4, demos)


def _demos(landscape: Landscape, n: int, is_reasoned: bool) -> Iterable[Shown]:
    """Yield `n` right demonstrations, as evenly over the error types as can be."""
    for place in range(n):
        row = Row((), None, place % len(landscape.error_types), 0.0, 0.0, b"")
        yield Shown(row, 0, 0, "", True, is_reasoned)
