"""Malformed and hostile inputs, each with what must happen; `case.Case` says how they are written down."""
