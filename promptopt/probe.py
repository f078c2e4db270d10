"""One call to each model before a run, to see whether it takes the options that it will be given."""

from __future__ import annotations

from promptopt.asking import RunState, ask_all
from promptopt.errors import ConfigError, ProviderError, TransientError
from promptopt.ledger import Lease
from promptopt.types import Message

_QUESTION = "Reply with the word OK."


async def probe(state: RunState, lease: Lease) -> None:
    """Ask each model of the run one short question with its options; the answers count as calls of the run.

    Raises:
        ConfigError: a model refuses, or cannot be reached.
        BudgetExhausted: the calls do not fit.
    """
    roles = {role: spec for role, spec in state.models.items() if not spec.is_simulated}
    calls = [state.call(spec.request((Message("user", _QUESTION),)), role) for role, spec in roles.items()]
    outcomes = await ask_all(state, lease, "probe", calls)
    for (role, spec), outcome in zip(roles.items(), outcomes, strict=True):
        if isinstance(outcome, TransientError):
            raise ConfigError(f"the {role} model {spec.name} cannot be reached: {outcome}; try again later")
        if isinstance(outcome, ProviderError):
            options = {"temperature": spec.temperature, "max_tokens": spec.max_tokens, **dict(spec.options)}
            said = ", ".join(f"{name}={value}" for name, value in options.items() if value is not None)
            raise ConfigError(
                f"the {role} model {spec.name} refuses a call with {said}: {outcome}; see --set-model {role}.X=..."
            )
