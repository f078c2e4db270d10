"""Statistics on scores: intervals, the paired comparison of two prompts, races, tests that bear many looks.

Pure functions of arrays; nothing here knows of prompts, models or money. Whatever draws random numbers (bootstrap,
sign flips) uses a fixed seed, so that the same scores give the same figures.
"""

from promptopt.stats.betting import BettingTest, log_e_values
from promptopt.stats.comparison import (
    LEVEL,
    Comparison,
    TestName,
    Verdict,
    compare,
    mcnemar_p,
    sign_flip_p,
    smallest_provable_gain,
)
from promptopt.stats.f1 import macro_f1
from promptopt.stats.intervals import MIN_SPREAD, mean_interval, score_interval, wilson_interval
from promptopt.stats.race import BLOCK, Elimination, Race, block_size, blocks
from promptopt.stats.rows import SAME, Interval
from promptopt.stats.rules import RULES, Betting, Halving, PairedT, Predictive, Rule
from promptopt.stats.simulation import SimulatedRace, simulate_race

__all__ = [
    "BLOCK",
    "LEVEL",
    "MIN_SPREAD",
    "RULES",
    "SAME",
    "Betting",
    "BettingTest",
    "Comparison",
    "Elimination",
    "Halving",
    "Interval",
    "PairedT",
    "Predictive",
    "Race",
    "Rule",
    "SimulatedRace",
    "TestName",
    "Verdict",
    "block_size",
    "blocks",
    "compare",
    "log_e_values",
    "macro_f1",
    "mcnemar_p",
    "mean_interval",
    "score_interval",
    "sign_flip_p",
    "simulate_race",
    "smallest_provable_gain",
    "wilson_interval",
]
