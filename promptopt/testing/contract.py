"""The contract of a search strategy, as tests that its author inherits."""

from __future__ import annotations

from promptopt.testing.declaration import DeclarationTests
from promptopt.testing.replay import ReplayTests
from promptopt.testing.robustness import RobustnessTests
from promptopt.testing.secrecy import SecrecyTests
from promptopt.testing.spending import SpendingTests


class OptimizerContract(DeclarationTests, SpendingTests, ReplayTests, SecrecyTests, RobustnessTests):
    """All that a search strategy owes a run; inherit it and name the strategy in `optimizer`.

    Everything runs on doubles: no network, no keys, no sleeping. See promptopt.testing.subject.Subject for
    what else a test class may say.
    """
