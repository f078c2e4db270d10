"""Every error that promptopt raises on purpose.

PromptoptError
├── ConfigError            wrong use: an option, a file, a row; nothing was spent      (ValueError)
├── ProviderError          a model's endpoint failed
│   ├── TransientError     worth another try: the gateway retries these itself
│   │   ├── RateLimited    429; `retry_after_s` where the endpoint named it
│   │   ├── ServerFailed   5xx, an empty or malformed reply
│   │   ├── CallTimedOut   no reply in time                                            (TimeoutError)
│   │   └── ConnectionLost refused, reset, not resolved                                (ConnectionError)
│   ├── CallRefused        this one call can never succeed: bad request
│   │   ├── ContextTooLong the prompt does not fit into the model's context
│   │   ├── ContentRefused the provider's content filter stopped it
│   │   └── RatingUnread   a judge rated nothing that can be read, though asked twice
│   ├── RunRefused         no call can succeed: key, model name or quota               (PermissionError)
│   │   └── ImageChanged   an image file is not the one that the run began with
│   ├── TooManyMissing     so many answers are missing that no decision is sound
│   └── ReservationBroken  an endpoint charged more than the worst case that was reserved
├── BudgetExhausted        the next step does not fit into what is left of the budget
├── Interrupted            the user asked to stop; what was in flight has been kept
├── ReplayDiverged         the strategy asks for something else than the journal holds
├── JournalError           the journal cannot be read, written or trusted              (OSError)
└── TaskError              a metric or a task's own code raised                        (RuntimeError)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_LISTED = 20


class PromptoptError(Exception):
    """Root of the tree: catch it to catch everything that promptopt raises on purpose."""


class ConfigError(PromptoptError, ValueError):
    """Wrong use; the message names the value, what was expected and the remedy. Nothing was spent."""


class ProviderError(PromptoptError):
    """A model's endpoint failed."""


class TransientError(ProviderError):
    """A failure that may pass; the gateway has retried it before anyone sees it."""


class RateLimited(TransientError):
    """Too many requests (429).

    Args:
        retry_after_s: seconds that the endpoint asks to wait; None if it did not say.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServerFailed(TransientError):
    """The endpoint answered 5xx, or with something that is no reply."""


class CallTimedOut(TransientError, TimeoutError):
    """No reply within the call's time limit."""


class ConnectionLost(TransientError, ConnectionError):
    """The endpoint could not be reached, or hung up."""


class CallRefused(ProviderError):
    """The endpoint refuses this very request; asking again is pointless."""


class ContextTooLong(CallRefused):
    """The request does not fit into the model's context window."""


class ContentRefused(CallRefused):
    """A content filter of the provider stopped the request or its answer."""


class RatingUnread(CallRefused):
    """A judge's rating of a reply could not be read, nor the one that it was asked for instead."""


class RunRefused(ProviderError, PermissionError):
    """No request of this run can succeed: missing or wrong key, unknown model, exhausted quota."""


class ImageChanged(RunRefused):
    """An image file is not the one that was checked before the run."""


class TooManyMissing(ProviderError):
    """So many answers are missing that candidates can no longer be compared soundly."""


class ReservationBroken(ProviderError):
    """An endpoint reported more than the worst case reserved for a call; the run stops at once."""


class BudgetExhausted(PromptoptError):
    """The next step does not fit into what is left of the budget."""


class Interrupted(PromptoptError):
    """The user asked to stop; answers in flight were awaited and journaled."""


class ReplayDiverged(PromptoptError):
    """A run asks for something else than its journal, or its recording, holds at the same place.

    Args:
        path: the place in the search: branch path, then `:` and the ordinal; "" = not known.
        difference: what was recorded and what is asked now, as a unified diff; "" = not known.
    """

    def __init__(self, message: str, *, path: str = "", difference: str = "") -> None:
        super().__init__(message)
        self.message, self.path, self.difference = message, path, difference

    def __str__(self) -> str:
        """Return the message, the place and the difference."""
        place = f" (at {self.path})" if self.path else ""
        return f"{self.message}{place}" + (f"\n{self.difference}" if self.difference else "")


class JournalError(PromptoptError, OSError):
    """The journal cannot be read, written or trusted."""


class TaskError(PromptoptError, RuntimeError):
    """A metric, or a task's own code, raised; the message names the example."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return the end of an error message: `did you mean 'x'?` or the list of valid names."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    if not names:
        return "there are none"
    return "valid: " + ", ".join(names) if len(names) <= MAX_LISTED else "nothing near is known."
