"""Ranges of a strategy's options, refused at once with the range in words."""

from __future__ import annotations

from promptopt.errors import ConfigError

# No number is larger: presets write it for "all there are", and numpy's sizes end soon after.
MOST = 10**9


def check_range(
    options: object,
    *names: str,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float = MOST,
    below: float | None = None,
) -> None:
    """Check that the named numbers of `options` lie within the bounds; None as a value is always allowed.

    Raises:
        ConfigError: one does not, or is not a number (NaN); with its name, its value and the bounds.
    """
    for name in names:
        value = getattr(options, name)
        if value is None:
            continue
        is_within = (
            value == value
            and (at_least is None or value >= at_least)
            and (above is None or value > above)
            and value <= at_most
            and (below is None or value < below)
        )
        if not is_within:
            most = at_most if at_most < MOST or (below is None and value > MOST) else None
            bounds = {"at least": at_least, "above": above, "at most": most, "below": below}
            wanted = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
            raise ConfigError(f"{name}={value}; it must be {wanted}")
