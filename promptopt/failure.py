"""What a failure of litellm means in the words of our error tree.

litellm's status codes are unreliable (one is a text), and its connection error also covers faults of its own:
hence classes decide first, then the exceptions behind them, then wording.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import ModuleType

from promptopt.errors import (
    CallRefused,
    CallTimedOut,
    ConnectionLost,
    ContentRefused,
    ContextTooLong,
    ProviderError,
    RateLimited,
    RunRefused,
    ServerFailed,
)
from promptopt.secret import Secrets

_QUOTA_WORDS = ("insufficient_quota", "exceeded your current quota", "credit balance is too low", "billing_hard")
# Gemini words a limit per minute like an exhausted quota, but then says when to come back.
_RETRY_WORDS = ("retry in", "retrydelay", "try again in")
_RETRY_DELAY = re.compile(
    r"(?:retry in|try again in|retrydelay\W+)\s*"
    r"(?:(?P<minutes>\d{1,9})m)?(?P<number>\d{1,9}(?:\.\d+)?)(?P<unit>ms|s)\b",
    re.IGNORECASE,
)
# litellm knows most of these refusals by their wording; the code is surer.
_REFUSAL_CODES: dict[str, type[CallRefused]] = {
    "context_length_exceeded": ContextTooLong,
    "content_policy_violation": ContentRefused,
    "content_filter": ContentRefused,
}
_REMEDIES = {
    "AuthenticationError": "; check the key in the environment",
    "PermissionDeniedError": "; check what the key may do",
    "PaymentRequiredError": "; check the account's credit",
    "NotFoundError": "; check the model's name and --api-base",
}
# litellm calls them bad requests where the error object says `invalid_request_error`, as OpenAI's do.
_REFUSING_ALL = (401, 402, 403, 404)
_REMEDY_OF_ALL = "; check the key, the model's name and --api-base"
# Faults of the code that reads a reply or makes a request; asking again repeats them, and pays again.
_CODE_FAULTS = (AttributeError, LookupError, TypeError, ValueError, NotImplementedError)
# Names of classes that litellm writes around what an endpoint says.
_PREFIX = re.compile(
    r"^(?:litellm\.\w+: )+(?:\w+Error: )?(?:\w+Exception (?:\w+Error )?- )?|\. Handle with `litellm\.\w+`\.?"
)
_GEMINI_UNREADABLE = "Error converting to valid response"
_UNREADABLE = "; litellm cannot handle this call or its reply, which may be paid for: it is not sent again"


def classify(
    litellm: ModuleType, error: Exception, *, is_answered: bool | None = None, secrets: Secrets | None = None
) -> ProviderError:
    """Return the error of our tree that a failure of litellm means.

    Args:
        is_answered: whether the reply held an answer, so that only reading it failed; None = not known.
        secrets: what no message may hold; None = those of the environment.
    """
    message = _one_line(error, Secrets.known() if secrets is None else secrets)
    if is_answered and isinstance(error, litellm.APIConnectionError | litellm.InternalServerError):
        return CallRefused(message + _UNREADABLE)
    if isinstance(error, litellm.RateLimitError):
        whole = str(error).lower()
        is_passing = any(word in whole for word in _RETRY_WORDS)
        if any(word in whole for word in _QUOTA_WORDS) and not is_passing:
            return RunRefused(message)
        return RateLimited(message, _retry_after(error))
    if "No module named" in message:  # a local fault in the coat of a connection error
        return RunRefused(f"{message}; install the missing package")
    status = str(getattr(error, "status_code", ""))
    if type(error) is litellm.APIError and status in ("402", "403"):  # it has no class of its own for these
        return RunRefused(message)
    if isinstance(error, litellm.BadRequestError) and _status_behind(error) in _REFUSING_ALL:
        return RunRefused(message + _REMEDY_OF_ALL)
    body = getattr(error, "body", None)
    code = body.get("code") if isinstance(body, dict) else None
    if isinstance(error, litellm.BadRequestError) and code in _REFUSAL_CODES:
        return _REFUSAL_CODES[code](message)
    if _GEMINI_UNREADABLE in message:  # raised as a bad request of ours
        return ServerFailed(message)
    if isinstance(error, litellm.APIConnectionError) and _is_fault_of_code(error):
        return CallRefused(message + _UNREADABLE) if is_answered is None else ServerFailed(message)
    for kind, ours in _kinds(litellm):
        if isinstance(error, kind):
            return ours(message + _REMEDIES.get(type(error).__name__, ""))
    return RunRefused(f"{type(error).__name__}: {message}")


def _one_line(error: Exception, secrets: Secrets) -> str:
    """Return what a failure says, without keys, and without the names of classes that litellm writes before it."""
    text, _, _ = str(error).partition("Traceback (most recent call last)")
    text = " ".join(text.split())
    return secrets.clean(_PREFIX.sub("", text) or text)[:500]


def _kinds(litellm: ModuleType) -> tuple[tuple[type[Exception], type[ProviderError]], ...]:
    """Return litellm's classes and ours, the narrower first."""
    return (
        (litellm.AuthenticationError, RunRefused),
        (litellm.PermissionDeniedError, RunRefused),
        (litellm.NotFoundError, RunRefused),
        (litellm.ContextWindowExceededError, ContextTooLong),
        (litellm.ContentPolicyViolationError, ContentRefused),
        (litellm.Timeout, CallTimedOut),
        (litellm.PaymentRequiredError, RunRefused),
        (litellm.BadRequestError, CallRefused),
        (litellm.UnprocessableEntityError, CallRefused),
        (litellm.InternalServerError, ServerFailed),
        (litellm.ServiceUnavailableError, ServerFailed),
        (litellm.BadGatewayError, ServerFailed),
        (litellm.APIConnectionError, ConnectionLost),
        (litellm.APIError, ServerFailed),
    )


def _is_fault_of_code(error: Exception) -> bool:
    """Return whether code failed, not a connection; a page that is no JSON counts as the server's failure."""
    behind = list(_behind(error))
    if any(isinstance(one, OSError | json.JSONDecodeError) for one in behind):
        return False
    if any(type(one).__module__.partition(".")[0] in ("httpx", "httpcore", "aiohttp") for one in behind):
        return False
    return any(isinstance(one, _CODE_FAULTS) for one in behind)


def _behind(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions during whose handling `error` was raised."""
    seen: set[int] = set()
    one = error.__cause__ or error.__context__
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _status_behind(error: Exception) -> int | None:
    """Return the HTTP status of the reply behind an error, whatever litellm made of it; None = not known."""
    statuses = (getattr(one, "status_code", None) for one in _behind(error))
    return next((status for status in statuses if isinstance(status, int)), None)


def _retry_after(error: Exception) -> float | None:
    """Return the seconds that an endpoint asks to wait, by a header or in words; None = it does not say."""
    text = next((text for one in (error, *_behind(error)) if (text := _header(one, "retry-after"))), "")
    try:
        return max(0.0, float(text))
    except ValueError:  # absent, or a date
        pass
    try:
        then = parsedate_to_datetime(text)
        return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return _delay_in(str(error))


def _header(error: BaseException, name: str) -> str:
    """Return a header of the reply behind an error; litellm keeps them in one of three places."""
    response = getattr(error, "response", None)
    places = (getattr(error, "litellm_response_headers", None), getattr(error, "headers", None))
    for headers in (*places, getattr(response, "headers", None)):
        if isinstance(headers, Mapping) and isinstance(text := headers.get(name), str):
            return text
    return ""


def _delay_in(text: str) -> float | None:
    found = _RETRY_DELAY.search(text)
    if found is None:
        return None
    seconds = float(found["number"]) / (1000 if found["unit"].lower() == "ms" else 1)
    return 60 * int(found["minutes"] or 0) + seconds
