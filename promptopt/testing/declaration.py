"""Tests of what a strategy says about itself: to users, and to the plan of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from promptopt import registry
from promptopt.errors import ConfigError
from promptopt.testing.double import Double, role_of
from promptopt.testing.subject import Subject

REQUIRES = frozenset({"labels", "scores", "log-probabilities", "optimizer model", "judge"})
"""What a strategy may require."""
PREFERS = REQUIRES | {"embeddings"}
"""What a strategy may use where it is there."""
_ROLE_NEEDS = {"optimizer": "optimizer model", "judge": "judge"}
_OUT_OF_RANGE = ("-1", "7.5")  # of most options: whole numbers cannot be the second
_SIZES = (100, 300, 1000, 3000, 10_000)


class DeclarationTests(Subject):
    """A strategy says where it comes from, what it needs and costs, and what its options mean."""

    def test_says_what_it_is(self) -> None:
        """Require a described frozen dataclass with `source`, `usual_calls` and `when`."""
        cls = registry.optimizer_class(self.optimizer)
        made = vars(cls).get("__dataclass_params__")
        assert made is not None, f"{cls.__name__} is no dataclass; its fields are its options"
        assert made.frozen, f"{cls.__name__} must be frozen: write @dataclass(frozen=True)"
        assert (cls.__doc__ or "").strip(), f"{cls.__name__} has no docstring"
        for name in ("source", "when", "usual_calls"):
            said = getattr(cls, name, None)
            assert isinstance(said, str), f"{cls.__name__}.{name} is {said!r}; write one phrase for users"
            assert said.strip(), f"{cls.__name__}.{name} is empty; write one phrase for users"

    def test_says_what_it_needs_in_known_words(self) -> None:
        """Require that `requires` and `prefers` hold words that the plan of a run understands."""
        for name, known in (("requires", REQUIRES), ("prefers", PREFERS)):
            unknown = sorted(set(getattr(self.strategy, name, ())) - known)
            assert not unknown, f"{name} has {unknown}; known words: {', '.join(sorted(known))}"

    def test_describes_its_options(self) -> None:
        """Require a line for each option, and that its default can be given as text."""
        cls = registry.optimizer_class(self.optimizer)
        for name, default, meaning in registry.describe_options(cls):
            assert meaning, f"option {name!r} needs a line `{name}: ...` below Args: in the docstring of the class"
            try:
                found = getattr(registry.make_optimizer(self.optimizer, {name: default})[1], name)
            except (ConfigError, TypeError) as error:
                raise AssertionError(f"--set {name}={default}, its default, cannot be read: {error}") from error
            expected = getattr(cls(), name)
            assert found == expected, f"--set {name}={default} gives {found!r}, and the default is {expected!r}"

    def test_presets_work(self) -> None:
        """Require that presets set options that exist, to values that work."""
        cls = registry.optimizer_class(self.optimizer)
        options = {field.name for field in dataclasses.fields(cls)}
        for preset, values in cls.presets.items():
            unknown = sorted(set(values) - options)
            assert not unknown, f"preset {preset!r} sets {unknown}, which are no options"
            made = registry.make_optimizer(self.optimizer, {"preset": preset})[1]
            assert made.minimum_calls() >= 1, f"with preset {preset!r}, minimum_calls() is below 1"

    def test_refuses_options_before_it_asks(self, tmp_path: Path) -> None:
        """Require that a number out of an option's range is refused when the strategy is made, not after calls."""
        for name, _, _ in registry.describe_options(registry.optimizer_class(self.optimizer)):
            for text in _OUT_OF_RANGE:
                n = self._calls_before_refusal(name, text, tmp_path / name / text)
                assert n == 0, f"{name}={text} was refused after {n} calls; check its range in __post_init__"

    def _calls_before_refusal(self, name: str, text: str, folder: Path) -> int:
        """Return how many calls were made before a number was refused; 0 = it was not, or the option is none."""
        double, options = Double(self.make_task()), {**self.options, name: text}
        try:
            made = registry.make_optimizer(self.optimizer, options)[1]
            if isinstance(getattr(made, name), int | float):
                self.run(folder, double=double, options=options)
        except ConfigError:
            return len(double.requests)
        return 0

    def test_forecasts_what_it_asks_for(self) -> None:
        """Forecasts are not negative, never above the size, and near it unless the search ends by itself."""
        strategy = self.strategy
        least, most = strategy.minimum_calls(), 0
        for n_calls in (least, *(n for n in _SIZES if n > least)):
            forecast = strategy.forecast(n_calls)
            total = sum(forecast.values())
            assert all(n >= 0 for n in forecast.values()), f"forecast({n_calls}) has a negative count: {forecast}"
            assert total <= 1.05 * n_calls + 1, f"forecast({n_calls}) adds up to {total}, above the size"
            floor = min(n_calls, 2 * least) / 2
            assert total >= floor, f"forecast({n_calls}) adds up to {total}, below half of what it may use"
            assert total >= most, f"forecast({n_calls}) adds up to {total}, less than for a smaller size ({most})"
            most = total

    def test_asks_only_the_models_that_it_requires(self, tmp_path: Path) -> None:
        """Require that the roles asked, those required and those forecast go together."""
        trial = self.run(tmp_path / "run")
        asked = {role_of(request) for request in trial.searched()}
        forecast = self.strategy.forecast(self.calls)
        for role, need in _ROLE_NEEDS.items():
            is_required = need in self.strategy.requires
            is_declared = need in registry.uses(self.strategy)
            assert is_declared or role not in asked, f"it asks the {role} model; add {need!r} to `requires`"
            assert role in asked or not is_required, f"it requires {need!r}, but asked none in a usual run"
        silent = sorted(role for role in asked if not dict(forecast).get(role))  # type: ignore[call-overload]
        assert not silent, f"it asks the roles {silent}, for which forecast({self.calls}) has no calls: {forecast}"
