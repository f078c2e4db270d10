"""The strategies in words, for `promptopt optimizers`: needs, usual calls, when to choose, options."""

from __future__ import annotations

import textwrap

from promptopt import registry

_TITLE_WIDTH = 9
# What most strategies need: that one does without is worth a word.
_USUAL_NEEDS = ("labels", "optimizer model")


def overview(width: int) -> list[str]:
    """Return the lines that list all strategies, at most `width` columns wide."""
    lines: list[str] = []
    for name in registry.optimizer_names():
        lines += [*_strategy(name, width), ""]
    return [*lines, *_wrapped("promptopt optimizers NAME: its options", width)]


def details(name: str, width: int) -> list[str]:
    """Return the lines that describe one strategy with its options.

    Raises:
        ConfigError: there is no such strategy.
    """
    cls = registry.optimizer_class(name)
    lines = [*_strategy(name, width), "", *_wrapped("options, each set with --set NAME=VALUE:", width)]
    for option, default, meaning in registry.describe_options(cls):
        lines += [f"  {option}={default}", *_wrapped(meaning, width, "      ")]
    for preset, values in cls.presets.items():
        said = ", ".join(f"{key}={value}" for key, value in values.items())
        lines += [f"  preset={preset}", *_wrapped(f"sets {said}", width, "      ")]
    return lines


def _strategy(name: str, width: int) -> list[str]:
    cls = registry.optimizer_class(name)
    strategy: registry.Optimizer = cls()
    chosen = {registry.AUTO: " (what auto picks)", registry.LABEL_FREE: " (what auto picks without labels)"}
    summary = (cls.__doc__ or "").strip().splitlines()[0]
    spared = [f"no {need}" for need in _USUAL_NEEDS if need not in strategy.requires]
    needs = ", ".join(sorted(strategy.requires)) or "nothing"
    facts = {
        "when": strategy.when,
        "needs": needs + (f" ({', '.join(spared)})" if spared else ""),
        "uses": ", ".join(sorted(registry.uses(strategy) - strategy.requires)),
        "calls": f"{getattr(cls, 'usual_calls', '')} (refused below {strategy.minimum_calls()})".strip(),
        "source": strategy.source,
        "presets": ", ".join(strategy.presets),
    }
    facts["uses"] += ", where there are any" if facts["uses"] else ""
    lines = _wrapped(f"{name}{chosen.get(name, '')}: {summary}", width, later="    ")
    for title, text in facts.items():
        if text:
            first = f"  {title + ':':<{_TITLE_WIDTH}}"
            lines += _wrapped(text, width, first, " " * len(first))
    return lines


def _wrapped(text: str, width: int, first: str = "", later: str | None = None) -> list[str]:
    """Return `text` in lines of at most `width` columns; words are never cut."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=first if later is None else later,
        break_long_words=False,
        break_on_hyphens=False,
    )
