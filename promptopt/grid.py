"""The grid of a comparison: strategies x data sets x seeds, each cell a planned run. Nothing is spent here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from promptopt import registry
from promptopt.bound import MOST_SEED, check_count
from promptopt.config import Settings
from promptopt.contrast import LEAST_DATA_BLOCKS, blocks_needed
from promptopt.errors import ConfigError, nearest
from promptopt.folder import Shared
from promptopt.plan import Plan, address_identity, make_plan, name_in_folder
from promptopt.run import check_simulator
from promptopt.task import Task
from promptopt.types import digest

Blocks = Literal["auto", "data", "seed"]
BLOCKS: tuple[Blocks, ...] = ("auto", "data", "seed")
MOST_CELLS = 10_000

# Settings that a comparison may change when it goes on; strategies, their options and seeds are the grid itself.
_FREE = ("optimizer", "options", "seed", "concurrency", "rpm", "tpm", "probe", "out", "price_in", "price_out")
# What every cell of a data set has in common, besides its rows.
_OF_DATA = ("prompt", "metric", "metric file", "description", "input", "predict", "answer pattern", "task file")


class Read(Protocol):
    """A task with its prompt; see promptopt.api.ReadTask."""

    @property
    def task(self) -> Task:
        """The task."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided about the data."""
        ...

    @property
    def front_matter(self) -> str:
        """Of the prompt file."""
        ...

    @property
    def source(self) -> Mapping[str, Any]:
        """Where prompt and data come from."""
        ...


# How a data set is read: its name or path, the seed, and whether labels are needed.
Reader = Callable[[str, int, bool | None], Read]


@dataclass(frozen=True)
class Asked:
    """What a comparison is to do.

    Args:
        data: as in `promptopt optimize --data`, each a data set.
        optimizers: names of strategies.
        seeds: of each strategy on each data set.
        settings: of every run; its strategy, options, seed and folder are the grid's to fill in.
        options: of strategies, as `strategy.name`.
        blocks: what the paired tests count as one observation: a data set, or a data set and seed; auto = data
            sets where there are six or more.
    """

    data: tuple[str, ...]
    optimizers: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: Settings
    options: Mapping[str, str] = field(default_factory=dict)
    blocks: Blocks = "auto"

    def __post_init__(self) -> None:
        """Refuse what makes no grid."""
        if not self.data:
            raise ConfigError("no data set to compare on; give --data once for each")
        if len(self.optimizers) < 2:
            raise ConfigError("a comparison needs two strategies or more: --optimizers capo,spo")
        if "auto" in self.optimizers:
            raise ConfigError("optimizer 'auto' picks another strategy for other data; name those to compare")
        if self.blocks not in BLOCKS:
            raise ConfigError(f"--blocks {self.blocks}: {nearest(self.blocks, BLOCKS)}")
        n = len(self.data) * len(self.optimizers) * len(self.seeds)
        if n > MOST_CELLS:
            raise ConfigError(f"{n:,} cells; at most {MOST_CELLS:,}: compare less at once")
        for what, given in (("strategy", self.optimizers), ("data set", self.data), ("seed", self.seeds)):
            twice = next((name for i, name in enumerate(given) if name in given[:i]), None)
            if twice is not None:
                raise ConfigError(f"the {what} {twice!r} stands twice; each cell runs once")
        if self.settings.proof_examples == 0:
            raise ConfigError("--proof-examples 0 leaves no test score to compare")
        if self.settings.budget.seconds is not None:
            raise ConfigError(
                "a budget of seconds is no equal budget: answers that another strategy has paid for take no time; "
                "limit calls, tokens or dollars"
            )


def seeds_from(first: int, n: int) -> tuple[int, ...]:
    """Return `n` seeds from `first` on.

    Raises:
        ConfigError: there are none, or one is too large.
    """
    check_count("--seeds", n, 1, MOST_CELLS)
    check_count("--seed", first, 0, MOST_SEED - n)
    return tuple(range(first, first + n))


@dataclass(frozen=True)
class GridCell:
    """One run of the grid.

    Args:
        name: `data/strategy/seed-N`, its name in the journal and its place below the folder's `cells`.
        plan: None = it cannot run.
        reason: why not; "" = it can.
    """

    name: str
    data: str
    optimizer: str
    seed: int
    plan: Plan | None
    front_matter: str = ""
    reason: str = ""

    @property
    def metric(self) -> str:
        """Name of the metric; "" = it cannot run."""
        return "" if self.plan is None else self.plan.task.metric.name


@dataclass(frozen=True)
class Grid:
    """All cells in the order in which they run: every strategy on a data set and seed before the next.

    Args:
        data: names of the data sets.
        options: of each strategy, as given.
        notes: sentences for the screen.
    """

    asked: Asked
    folder: Path
    data: tuple[str, ...]
    optimizers: tuple[str, ...]
    options: Mapping[str, Mapping[str, str]]
    cells: tuple[GridCell, ...]
    notes: tuple[str, ...]

    @property
    def plans(self) -> list[Plan]:
        """The plans of all cells that can run."""
        return [cell.plan for cell in self.cells if cell.plan is not None]

    @property
    def are_data_blocks(self) -> bool:
        """Whether the paired tests count data sets, else data sets and seeds."""
        if self.asked.blocks == "auto":
            return len(self.data) >= LEAST_DATA_BLOCKS
        return self.asked.blocks == "data"

    @property
    def n_blocks(self) -> int:
        """Blocks of the paired tests, if all cells end well."""
        return len(self.data) * (1 if self.are_data_blocks else len(self.asked.seeds))

    def plan_of(self, data: str) -> Plan:
        """Return the plan of some cell of a data set: there is one."""
        return next(cell.plan for cell in self.cells if cell.data == data and cell.plan is not None)

    def identity(self) -> dict[str, Any]:
        """Return what all sessions of a comparison have in common; data sets may be added."""
        settings = self.asked.settings
        fields = {key: value for key, value in asdict(settings).items() if key not in _FREE}
        fields |= address_identity(settings.api_base)
        fields["budget"] = {key: None if value is None else str(value) for key, value in fields["budget"].items()}
        fields["model_options"] = {
            role: {key: str(value) for key, value in given.items()}
            for role, given in fields["model_options"].items()
        }
        return {**fields, "data sets": {name: self._data_identity(name) for name in self.data}}

    def _data_identity(self, name: str) -> dict[str, Any]:
        plan = self.plan_of(name)
        whole = plan.identity()
        rows = (*plan.given.train, *plan.given.dev, *plan.given.test)
        content = digest(sorted(digest(example.identity[1:]) for example in rows))  # ids may hang on the split
        return {**{key: whole[key] for key in _OF_DATA if key in whole}, "data": content}


def make_grid(asked: Asked, folder: Path, read: Reader, *, is_simulated: bool = True) -> Grid:
    """Return the grid with every cell planned.

    A strategy that a data set does not suit (it needs labels, or a larger budget) leaves its cells without a plan,
    with the reason; the others go on.

    Args:
        read: reads a data set.
        is_simulated: whether a model `sim` is the built-in simulator; else a double plays it.

    Raises:
        ConfigError: a strategy or option is unknown, two data sets have one name, or a data set suits no strategy.
    """
    options = _options(asked)
    labels = _labels("strategy", [(name, name_in_folder(name)) for name in asked.optimizers])
    planner = _Planner(asked, folder, read, is_simulated)
    first = {source: planner.any_task(source) for source in asked.data}
    names = _labels("data set", [(source, task.name) for source, task in first.items()])
    cells: list[GridCell] = []
    notes: list[str] = []
    for source in asked.data:
        own = [
            planner.cell(source, names[source], optimizer, labels[optimizer], options[optimizer], seed)
            for seed in asked.seeds
            for optimizer in asked.optimizers
        ]
        planned = next((cell.plan for cell in own if cell.plan is not None), None)
        if planned is None:
            raise ConfigError(f"data set {names[source]}: {own[0].reason}")
        notes += [_named(names[source], note) for note in planned.notes]
        notes += _unplanned(own)
        cells += own
    grid = Grid(
        asked=asked,
        folder=folder,
        data=tuple(names[source] for source in asked.data),
        optimizers=tuple(labels[name] for name in asked.optimizers),
        options={labels[name]: options[name] for name in asked.optimizers},
        cells=tuple(cells),
        notes=tuple(notes),
    )
    return replace(grid, notes=(*grid.notes, *power_notes(grid)))


def power_notes(grid: Grid) -> list[str]:
    """Return a sentence if the paired tests can prove nothing with so many blocks."""
    needed = blocks_needed(len(grid.optimizers))
    if grid.n_blocks >= needed:
        return []
    kind = "data sets" if grid.are_data_blocks else "data sets x seeds"
    seeds = -(-needed // len(grid.data))
    more = f"--seeds {seeds}" if not grid.are_data_blocks else f"--blocks seed with --seeds {seeds} or more"
    return [
        f"{grid.n_blocks} blocks ({kind}) cannot prove any difference between {len(grid.optimizers)} strategies "
        f"at level .05: at least {needed} are needed ({more}); scores, intervals and ranks are shown all the same"
    ]


class _Planner:
    """Reads each data set once for each seed and need of labels, and plans cells."""

    def __init__(self, asked: Asked, folder: Path, read: Reader, is_simulated: bool) -> None:
        self._asked = asked
        self._folder = folder
        self._read = read
        self._is_simulated = is_simulated
        self._known: dict[tuple[str, int, bool | None], Read | ConfigError] = {}
        self._requires = {name: registry.optimizer_class(name).requires for name in asked.optimizers}

    def any_task(self, source: str) -> Task:
        """Return a data set as the first strategy takes it that can.

        Raises:
            ConfigError: it suits none; or has no test split.
        """
        found = [self._task(source, self._asked.seeds[0], name) for name in self._asked.optimizers]
        read = next((one for one in found if not isinstance(one, ConfigError)), None)
        if read is None:
            raise ConfigError(self._unfit(source, str(found[0])))
        if not read.task.test:
            raise ConfigError(
                f"data set {read.task.name}: it has no test split, so there is nothing to compare on"
            )
        return read.task

    def _unfit(self, source: str, reason: str) -> str:
        if len(self._asked.data) == 1:
            return reason
        return f"data set {source}: {reason}; a data set may have a prompt of its own: --prompt {source}=FILE"

    def _task(self, source: str, seed: int, optimizer: str) -> Read | ConfigError:
        requires = self._requires[optimizer]
        key = (source, seed, "labels" in requires or (None if "scores" in requires else False))
        if key not in self._known:
            try:
                self._known[key] = self._read(*key)
            except ConfigError as error:
                self._known[key] = error
        return self._known[key]

    def cell(
        self, source: str, data: str, optimizer: str, label: str, options: Mapping[str, str], seed: int
    ) -> GridCell:
        """Return a cell, with its plan or why it has none."""
        name = f"{plain(data)}/{plain(label)}/seed-{seed}"
        read = self._task(source, seed, optimizer)
        if isinstance(read, ConfigError):
            return GridCell(name, data, label, seed, None, reason=str(read))
        settings = replace(
            self._asked.settings,
            optimizer=optimizer,
            options=options,
            seed=seed,
            out=Shared(self._folder, name).place,
        )
        try:
            plan = replace(make_plan(read.task, settings, read.notes), source=read.source)
            if self._is_simulated:
                check_simulator(plan)
        except ConfigError as error:
            return GridCell(name, data, label, seed, None, reason=str(error))
        return GridCell(name, data, label, seed, plan, read.front_matter)


def plain(name: str) -> str:
    """Return a name as that of a folder: it may come from anybody."""
    return re.sub(r"[^\w.+-]+", "-", name).lstrip(".-")[:80] or "unnamed"


def _labels(what: str, pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return labels by what the user wrote.

    Raises:
        ConfigError: two would have one place in the folder.
    """
    taken: dict[str, str] = {}
    for given, label in pairs:
        place = plain(label).lower()
        if place in taken:
            raise ConfigError(
                f"the {what}s {taken[place]!r} and {given!r} would both be called {label!r}; rename one of them"
            )
        taken[place] = given
    return dict(pairs)


def _options(asked: Asked) -> dict[str, dict[str, str]]:
    """Return each strategy's own options, checked.

    Raises:
        ConfigError: a strategy, or an option, is unknown or has no such value.
    """
    found: dict[str, dict[str, str]] = {name: {} for name in asked.optimizers}
    written = {_underscored(name): name for name in asked.optimizers}
    written |= {_underscored(name_in_folder(name)): name for name in asked.optimizers}
    for key, value in asked.options.items():
        strategy, dot, option = key.rpartition(".")
        if not dot or not option:
            raise ConfigError(f"--set {key}: say whose it is, such as {asked.optimizers[0]}.{key}={value}")
        if _underscored(strategy) not in written:
            raise ConfigError(f"--set {key}: no strategy {strategy!r} here; {nearest(strategy, asked.optimizers)}")
        found[written[_underscored(strategy)]][option] = value
    for name, options in found.items():
        registry.make_optimizer(name, options)
    return found


def _named(data: str, note: str) -> str:
    return note if note.startswith(f"{data}:") else f"{data}: {note}"


def _underscored(name: str) -> str:
    return name.replace("-", "_")


def _unplanned(cells: Sequence[GridCell]) -> list[str]:
    """Return a sentence for each strategy that cannot run on a data set."""
    reasons = {
        cell.optimizer: f"{cell.data}: {cell.optimizer} cannot run: {cell.reason}" for cell in cells if cell.reason
    }
    return list(reasons.values())
