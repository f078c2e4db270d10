"""Finds a better prompt for a black-box LLM, at an agreed cost, with evidence on unseen data."""
