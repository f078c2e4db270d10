"""Metrics for answers in JSON: right fields, and fitting a JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from promptopt.decoding import read_text
from promptopt.errors import ConfigError, TaskError
from promptopt.tasks import pattern
from promptopt.tasks.answer import Finder, parse_last, parse_object, parse_whole, trim
from promptopt.tasks.wording import short, spaced, target_of
from promptopt.types import Example, Score, digest

_MOST_FEEDBACK = 300
_MOST_BYTES = 1_000_000
_PROBES: tuple[object, ...] = ({}, [], "", 0, None, True)


@dataclass(frozen=True)
class Json:
    """Share of the target's fields that the answer's JSON object has right; other fields do not count."""

    finder: Finder = Finder()
    name: str = "json"

    def score(self, reply: str, example: Example) -> Score:
        """Return the share of right fields; text is compared folded, numbers as numbers."""
        target = target_of(example, self.name)
        wanted = parse_object(target)
        if wanted is None:
            raise TaskError(f"example {example.id!r}: target {short(target)} is no JSON object")
        found = self._find_object(reply)
        if found is None:
            names = ", ".join(wanted)
            return Score(0.0, f"no JSON object found in the reply; expected the fields {names}", is_parsed=False)
        wrong = [name for name in wanted if not (name in found and _is_equal(wanted[name], found[name]))]
        if not wrong:
            return Score(1.0)
        lines = [_wrong_field(name, wanted, found) for name in wrong]
        return Score(1 - len(wrong) / len(wanted), "; ".join(lines))

    def _find_object(self, reply: str) -> dict[str, object] | None:
        """Return the object that the reply is; else the last one of the answer, or of the whole reply."""
        scope = self.finder.scope(reply)
        texts = (scope,) if is_object(trim(scope)) else (self.finder.answer(reply), scope)
        return next((found for found in map(parse_object, texts) if found is not None), None)


@dataclass(frozen=True)
class JsonSchema:
    """The answer's JSON fits a JSON Schema; needs no target.

    Args:
        name: as the user gave it, `json-schema:FILE.json`.
        schema: the schema; without `$schema` it is taken for draft 2020-12. It may only refer to itself.
        digest: of the file's text.
        text: the file's text, which a recording of a run holds.
    """

    name: str
    schema: Any
    digest: str = ""
    finder: Finder = Finder()
    text: str = field(default="", compare=False, repr=False)

    def score(self, reply: str, example: Example) -> Score:
        """Return 1 if the answer's JSON fits the schema, else 0 with what fits least.

        Raises:
            TaskError: a pattern of the schema takes longer than a second.
        """
        from jsonschema.exceptions import best_match

        found = self._find_value(reply)
        if found is None:
            return Score(0.0, "no JSON found in the reply; expected JSON that fits the schema", is_parsed=False)
        try:
            error = best_match(self._validator.iter_errors(found[0]))
        except (RecursionError, ArithmeticError) as reason:  # absurd depth or numbers: no answer of any use
            return Score(0.0, f"the JSON of the reply cannot be checked ({reason})", is_parsed=False)
        if error is None:
            return Score(1.0)
        message = error.message if len(error.message) <= _MOST_FEEDBACK else error.message[:_MOST_FEEDBACK] + "..."
        place = "" if error.json_path == "$" else f"at {error.json_path}: "
        return Score(0.0, f"the JSON does not fit the schema: {place}{message}")

    def _find_value(self, reply: str) -> tuple[object] | None:
        """Return the value that the reply is as a whole; else that of the answer, or the last in the reply."""
        scope = self.finder.scope(reply)
        texts = (trim(scope), self.finder.answer(reply), scope)
        whole = next((found for text in texts if (found := parse_whole(text)) is not None), None)
        if whole is not None:
            return whole
        return next((found for text in texts[1:] if (found := parse_last(text)) is not None), None)

    @cached_property
    def _validator(self) -> Any:
        from jsonschema import validators
        from referencing import Registry

        known = validators.validator_for(self.schema, default=validators.Draft202012Validator)
        keywords = {key: check for key, check in _GUARDED.items() if key in known.VALIDATORS}
        guarded: Any = validators.extend(known, keywords)  # type: ignore[no-untyped-call]
        # An own, empty registry: the default one would fetch what a schema refers to.
        return guarded(self.schema, registry=Registry())


def load_schema(name: str, file: str, finder: Finder) -> JsonSchema:
    """Return the metric of the JSON Schema in a file; `name` is what the user wrote.

    Raises:
        ConfigError: the file cannot be read, is no JSON, no JSON Schema, or refers to what is not in it.
    """
    place = f"metric {name!r}: {file}"
    try:
        text = read_text(Path(file), _MOST_BYTES, "utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"metric {name!r}: cannot read {file} ({error}); check the path") from error
    try:
        schema = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"{place}:{error.lineno}:{error.colno}: not JSON ({error.msg}); correct it"
        raise ConfigError(message) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: not JSON ({error}); correct it") from error
    metric = JsonSchema(name, schema, digest(text), finder, text)
    _check(metric, place)
    return metric


def _check(metric: JsonSchema, place: str) -> None:
    """Raise ConfigError unless the schema is one, and all that it refers to stands in it."""
    from jsonschema.exceptions import SchemaError

    schema = metric.schema
    if not isinstance(schema, dict | bool):
        raise ConfigError(f"{place}: a JSON Schema is an object; correct the file")
    if isinstance(schema, dict) and not isinstance(schema.get("$schema", ""), str):
        raise ConfigError(f"{place}: $schema is no text; write the address of a draft, or leave it out")
    try:
        metric._validator.check_schema(schema)
        _check_parts(schema)
        for probe in _PROBES:
            list(metric._validator.iter_errors(probe))
    except SchemaError as error:
        message = f"{error.json_path}: {error.message:.200}"
        raise ConfigError(f"{place}: is no JSON Schema ({message}); correct the file") from error
    except RecursionError as error:
        raise ConfigError(f"{place}: refers to itself without end; correct the file") from error
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def _check_parts(schema: Any) -> None:
    """Look up every reference of a schema, in the place where it stands, and look for what has no limit of time.

    Raises:
        ConfigError: a reference leads nowhere, or patterns would be matched without a limit of time.
    """
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012, specification_with

    uri = schema.get("$schema") if isinstance(schema, dict) else None
    specification = specification_with(uri, default=DRAFT202012) if uri else DRAFT202012
    root = specification.create_resource(schema)
    pending: list[tuple[Any, Any]] = [(Registry().resolver_with_root(root), root)]
    keywords: set[str] = set()
    while pending:
        resolver, part = pending.pop()
        contents = part.contents if isinstance(part.contents, dict) else {}
        keywords |= contents.keys()
        for key in ("$ref", "$dynamicRef", "$recursiveRef"):
            target = contents.get(key)
            if not isinstance(target, str):
                continue
            try:
                resolver.lookup(target)
            except Unresolvable as error:
                raise ConfigError(
                    f"it refers to {target!r}, which is not in it; put all that it refers to into one file"
                ) from error
        pending += [(resolver.in_subresource(inner), inner) for inner in part.subresources()]
    if keywords >= {"unevaluatedProperties", "patternProperties"}:
        raise ConfigError(
            "it has both unevaluatedProperties and patternProperties, whose patterns could then take any time on "
            "a reply; write additionalProperties instead of unevaluatedProperties"
        )


def _pattern(validator: Any, wanted: str, instance: object, schema: object) -> Any:
    """Check the keyword `pattern`, within a limit of time."""
    from jsonschema.exceptions import ValidationError

    if isinstance(instance, str) and not pattern.is_found(wanted, instance, is_whole=False):
        yield ValidationError(f"{short(instance)} does not match {wanted!r}")


def _pattern_properties(validator: Any, wanted: Mapping[str, Any], instance: object, schema: object) -> Any:
    """Check the keyword `patternProperties`, within a limit of time."""
    if not isinstance(instance, dict):
        return
    for one, part in wanted.items():
        for name, value in instance.items():
            if pattern.is_found(one, name, is_whole=False):
                yield from validator.descend(value, part, path=name, schema_path=one)


def _additional_properties(validator: Any, wanted: Any, instance: object, schema: Mapping[str, Any]) -> Any:
    """Check the keyword `additionalProperties`, the patterns beside it within a limit of time."""
    from jsonschema.exceptions import ValidationError

    if not isinstance(instance, dict):
        return
    names, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    extras = [
        name
        for name in instance
        if name not in names and not any(pattern.is_found(one, name, is_whole=False) for one in patterns)
    ]
    if isinstance(wanted, dict):
        for name in extras:
            yield from validator.descend(instance[name], wanted, path=name)
    elif not wanted and extras:
        unless = f"; others must match {' or '.join(map(repr, patterns))}" if patterns else ""
        yield ValidationError(f"Additional properties are not allowed: {', '.join(map(repr, extras))}{unless}")


_GUARDED: Mapping[str, Any] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
}


def is_object(text: str) -> bool:
    """Return whether `text` is one JSON object and nothing else."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _is_equal(wanted: object, found: object) -> bool:
    if isinstance(wanted, bool) or isinstance(found, bool):
        return wanted is found
    if isinstance(wanted, int | float) and isinstance(found, int | float):
        return wanted == found
    if isinstance(wanted, str) and isinstance(found, str):
        return spaced(wanted).casefold() == spaced(found).casefold()
    if isinstance(wanted, list) and isinstance(found, list):
        return len(wanted) == len(found) and all(map(_is_equal, wanted, found))
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(name in found and _is_equal(value, found[name]) for name, value in wanted.items())
    return wanted is None and found is None


def _wrong_field(name: str, wanted: Mapping[str, object], found: Mapping[str, object]) -> str:
    expected = short(json.dumps(wanted[name], ensure_ascii=False))
    got = f"got {short(json.dumps(found[name], ensure_ascii=False))}" if name in found else "it is missing"
    return f"field {name!r}: expected {expected}, {got}"
