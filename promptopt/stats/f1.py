"""F1 of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from math import fsum


def macro_f1(pairs: Sequence[tuple[str, str | None]], labels: Collection[str]) -> float:
    """Return the mean over `labels` of the F1 of each, in [0, 1]: scikit-learn's, with `zero_division=0`.

    Args:
        pairs: (right class, named class) of each example; None = the answer names no class, and is wrong.
        labels: at least one class; one that no example has and no answer names counts 0.
    """
    hits = Counter(right for right, named in pairs if right == named)
    sizes = Counter(right for right, _ in pairs) + Counter(named for _, named in pairs if named is not None)
    # exact, since a set of labels has another order in each process
    return fsum(2 * hits[label] / sizes[label] for label in labels if sizes[label]) / len(labels)
