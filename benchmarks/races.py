"""What the racing rules spend and lose on simulated score tables; the figures of docs/racing.md.

    python benchmarks/races.py

Synthetic 0/1 tables: skill of an arm N(0, .6), difficulty of an item N(0, 2.5), their interaction N(0, 1),
in logits. The dev-best arms are those with the highest mean over the whole table.
"""

from __future__ import annotations

import numpy as np

from promptopt.racing import Betting, PairedT, Race, Rule, block_size, blocks


def table(seed: int, n_arms: int, n_items: int) -> np.ndarray:
    rng = np.random.default_rng([1, seed])
    skills, difficulty = rng.normal(0, 0.6, (n_arms, 1)), rng.normal(0, 2.5, (1, n_items))
    logit = skills - difficulty + rng.normal(0, 1, (n_arms, n_items))
    return (rng.random((n_arms, n_items)) < 1 / (1 + np.exp(-logit))).astype(float)


def run(scores: np.ndarray, rule: Rule, keep: int, size: int) -> tuple[float, bool, float]:
    """Return the share of cells evaluated, whether a top arm was displaced, and the mean score given up."""
    n_arms, n_items = scores.shape
    race = Race(n_items, keep, [1] * n_arms, range(n_arms), rule=rule)
    n_cells = 0
    for block in blocks(n_items, size):
        if race.is_over:
            break
        cells = scores[list(race.alive), block]
        n_cells += cells.size
        race.observe(cells)
    kept = np.sort(scores.mean(axis=1)[list(race.ranking()[:keep])])
    top = np.sort(scores.mean(axis=1))[-keep:]
    regret = float((top - kept).mean())
    return n_cells / scores.size, regret > 1e-9, regret


def show(title: str, rule: Rule, shape: tuple[int, int], n: int, keep: int = 1, size: int | None = None) -> None:
    rows = [run(table(seed, *shape), rule, keep, size or block_size(shape[1])) for seed in range(n)]
    share, lost, regret = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    print(
        f"{title:28} {shape[0]} x {shape[1]} keep {keep}: {share.mean():.2f} of the cells, "
        f"{int(lost.sum())} of {n} lost, {regret.mean():.4f} given up"
    )


def main() -> None:
    rules: dict[str, Rule] = {"Betting()": Betting(), "Betting(eps=0)": Betting(eps=0.0), "PairedT()": PairedT()}
    for shape, n in (((10, 100), 400), ((10, 300), 200), ((30, 200), 100)):
        for title, rule in rules.items():
            show(title, rule, shape, n)
    each = Betting(0.2, 0.03, protect="each")
    show("Betting()", Betting(), (20, 200), 100, keep=5)
    show("Betting(.2, .03, each)", each, (20, 200), 100, keep=5)
    for n_items in (40, 20):
        show("Betting()", Betting(), (10, n_items), 200)
    for size in (5, 10, 20, 30):
        show(f"Betting(), blocks of {size}", Betting(), (10, 100), 200, size=size)


if __name__ == "__main__":
    main()
