"""Numbers that a user gives, read exactly and within bounds: beyond them no sum could be kept exact."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from promptopt.errors import ConfigError

# Bounds are chosen far above any sound use.
MOST_COUNT = 10**12
MOST_AMOUNT = 10**9  # dollars or seconds
MOST_PRICE = 10**6  # dollars per million tokens
MOST_SEED = 2**63 - 1  # what every file format can carry
MOST_CONCURRENCY = 10_000
# Tokens of one request: worst cases are reckoned with texts of that length.
MOST_LENGTH = 10**6


def number_or_none(value: object, name: str) -> Decimal | None:
    """Return a number that a user may have given, see `number`; None = was not given."""
    return None if value is None else number(value, name)


def number(value: object, name: str, most: int = MOST_AMOUNT) -> Decimal:
    """Return a number that a user gave, as text or as a number, exactly.

    Raises:
        ConfigError: it is none, is not finite, or is above `most`.
    """
    try:
        exact = Decimal(str(value))
    except InvalidOperation:
        raise ConfigError(f"{name} is {value!r}; write a number, such as 2 or 0.50") from None
    if not exact.is_finite():
        raise ConfigError(f"{name} is {value}; write a finite number")
    if exact > most:
        raise ConfigError(f"{name} is {value}; it must be at most {most}")
    return exact


def check_count(name: str, value: object, least: int, most: int = MOST_COUNT) -> None:
    """Raise ConfigError unless `value` is a whole number from `least` to `most`, or None."""
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; write a whole number")
    if value < least:
        raise ConfigError(f"{name} is {value}; it must be {'above 0' if least else 'at least 0'}")
    if value > most:
        raise ConfigError(f"{name} must be at most {most}; write a smaller number")
