"""A deterministic, instant stand-in for an instruction-following LLM: `--model sim`, `sim:NAME`."""

from __future__ import annotations

from promptopt.simulator.concepts import CONCEPTS, Concept, concepts_of
from promptopt.simulator.engine import PRICE_IN, PRICE_OUT, Simulator, count_tokens
from promptopt.simulator.landscapes import LANDSCAPES, ErrorType, Landscape, Mend, landscape

__all__ = [
    "CONCEPTS",
    "LANDSCAPES",
    "PRICE_IN",
    "PRICE_OUT",
    "Concept",
    "ErrorType",
    "Landscape",
    "Mend",
    "Simulator",
    "concepts_of",
    "count_tokens",
    "landscape",
]
