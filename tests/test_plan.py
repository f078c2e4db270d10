"""The plan: shares of the budget, the size of search and proof, the forecast. Nothing is spent."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from scripted import Scripted, make_task, model

from promptopt import registry
from promptopt.api import prepare
from promptopt.config import Settings
from promptopt.errors import ConfigError
from promptopt.plan import GATE_SHARE, PROOF_SHARE, Plan, make_plan
from promptopt.providers import closing
from promptopt.run import Run
from promptopt.stats import smallest_provable_gain
from promptopt.tasks import bundled
from promptopt.types import Budget

BUDGETS = [
    Budget(calls=300),
    Budget(calls=1501),
    Budget(usd=Decimal("0.5")),
    Budget(usd=2.5),
    Budget(tokens=3_000_000),
    Budget(usd=1, calls=400),
    Budget(calls=2000, tokens=2_000_000),
]


def plan_of(budget: Budget, n_test: int = 400, **settings: object) -> Plan:
    return make_plan(make_task(n_dev=120, n_test=n_test), Settings("sim", budget=budget, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_proof_takes_at_most_its_share_of_every_limit(budget: Budget) -> None:
    plan = plan_of(budget)
    for part, whole in zip(plan.proof_reserve, plan.limit, strict=True):
        assert part <= whole * (PROOF_SHARE if isinstance(whole, Decimal) else float(PROOF_SHARE))
    n_proof = len(plan.task.test)
    assert plan.proof_reserve.calls >= 2 * n_proof
    assert plan.forecast.n_certain == n_proof <= plan.forecast.n_proof <= 400
    assert len(plan.spare_test) == 400 - n_proof
    assert any(f"takes {n_proof} of 400 test examples, drawn by seed 0" in note for note in plan.notes)


def test_whole_test_split_where_it_is_affordable() -> None:
    plan = plan_of(Budget(calls=1000), n_test=60)
    assert len(plan.task.test) == 60
    assert not any("drawn by seed" in note for note in plan.notes)
    assert plan.forecast.smallest_provable == smallest_provable_gain(60)


def test_subsample_is_drawn_by_seed() -> None:
    drawn = [{e.id for e in plan_of(Budget(calls=300), seed=seed).task.test} for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_proof_as_asked() -> None:
    plan = plan_of(Budget(calls=300), proof_examples=90)
    assert len(plan.task.test) == 90
    assert any("as asked" in note for note in plan.notes)
    none = plan_of(Budget(calls=300), proof_examples=0)
    assert none.task.test == ()
    assert "no proof: the gain on unseen data will not be known" in none.notes
    assert none.forecast.smallest_provable is None


@pytest.mark.parametrize(
    ("n_dev", "calls", "is_held_out"),
    [(99, 5000, False), (100, 5000, True), (100, 1000, False), (120, 1900, True)],
)
def test_hold_out_only_where_it_pays(n_dev: int, calls: int, is_held_out: bool) -> None:
    task = make_task(n_dev=n_dev, n_test=40)
    plan = make_plan(task, Settings("sim", budget=Budget(calls=calls)))
    assert bool(plan.holdout) == is_held_out
    assert {e.id for e in (*plan.task.dev, *plan.holdout)} == {e.id for e in task.dev}
    if is_held_out:
        assert len(plan.holdout) == n_dev // 5
        assert plan.gate_reserve.calls <= GATE_SHARE * plan.limit.calls
        assert plan.search_calls + plan.gate_reserve.calls + plan.proof_reserve.calls == calls


def test_default_budget_is_said() -> None:
    plan = plan_of(Budget())
    assert plan.limit.calls == 1000
    assert any("no budget given: at most 1,000 calls" in note for note in plan.notes)
    assert not any("no budget" in note for note in plan_of(Budget(calls=500)).notes)


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_forecast_is_within_its_bounds(budget: Budget) -> None:
    plan = plan_of(budget)
    forecast = plan.forecast
    assert forecast.expected_usd is not None
    assert forecast.worst_usd is not None
    assert 0 < forecast.expected_usd <= forecast.worst_usd <= plan.limit.usd
    assert forecast.calls <= plan.limit.calls
    assert forecast.worst_tokens is None or forecast.worst_tokens <= plan.limit.tokens


def test_time_alone_bounds_no_dollars() -> None:
    plan = plan_of(Budget(seconds=60))
    assert plan.forecast.worst_usd is None
    assert plan.forecast.expected_usd is not None
    assert plan_of(Budget(seconds=0.001)).search_calls >= plan.optimizer.minimum_calls()


def test_calls_that_time_alone_decides_are_a_guess() -> None:
    timed = plan_of(Budget(seconds=60)).forecast
    assert timed.seconds_per_call is not None
    assert timed.calls == pytest.approx(60 * 0.7 * 16 / timed.seconds_per_call, rel=0.1)
    for plan in (
        plan_of(Budget(calls=300)),
        plan_of(Budget(seconds=600, calls=300)),
        plan_of(Budget(seconds=600), optimizer="spo"),  # which ends by itself
    ):
        assert plan.forecast.seconds_per_call is None
        assert plan.forecast.calls < 1500


def test_nothing_can_be_spent_where_every_price_is_zero() -> None:
    forecast = plan_of(Budget(seconds=60), price_in=0, price_out=0).forecast
    assert (forecast.expected_usd, forecast.worst_usd) == (0, 0)


def test_models_that_a_run_does_not_ask_are_named() -> None:
    ignored = {"judge_model": "foo", "embedding_model": "bar"}
    notes = plan_of(Budget(calls=300), **ignored).notes
    assert "--judge-model foo is not used: nothing in this run asks it" in notes
    assert "--embedding-model bar is not used: nothing in this run asks it" in notes
    notes = plan_of(Budget(calls=900), optimizer="promptquine", optimizer_model="sim").notes
    assert "--optimizer-model sim is not used: nothing in this run asks it" in notes
    used = plan_of(Budget(calls=300), optimizer="spo", judge_model="sim", optimizer_model="sim")
    assert not any("is not used" in note for note in used.notes)


@pytest.mark.parametrize("name", bundled.names())
@pytest.mark.parametrize("calls", [300, 1500])
@pytest.mark.parametrize("optimizer", ["auto", "capo"])
def test_forecast_is_near_what_a_run_takes(name: str, calls: int, optimizer: str, tmp_path: Path) -> None:
    settings = Settings("sim", optimizer=optimizer, budget=Budget(calls=calls), out=tmp_path)
    plan, _ = prepare(bundled.folder(name) / bundled.PROMPT, name, settings)
    spend = asyncio.run(closing(Run(plan).execute())).spend
    assert plan.forecast.expected_usd is not None
    assert spend.cost_usd is not None
    assert 0.5 <= plan.forecast.expected_usd / spend.cost_usd <= 2
    assert 0.5 <= plan.forecast.calls / spend.calls <= 2


def test_demonstrations_that_are_wanted_are_forecast() -> None:
    def tokens(calls: int, **options: str) -> int:
        plan = plan_of(Budget(calls=calls), optimizer="reflect", options=options)
        [searched] = [part for part in plan.forecast.parts if (part.phase, part.role) == ("search", "task")]
        return searched.tokens // searched.calls

    few, some, many = (tokens(3000, max_demos=n) for n in ("0", "3", "6"))
    assert few + 15 <= some
    assert some + 15 <= many
    assert few == tokens(200, max_demos="0") < tokens(200, max_demos="6") < many


def test_failures_that_are_shown_are_forecast() -> None:
    def tokens(show: str) -> int:
        plan = plan_of(Budget(calls=3000), optimizer="reflect", options={"show": show})
        [written] = [part for part in plan.forecast.parts if part.role == "optimizer"]
        return written.tokens // written.calls

    assert tokens("1") + 5 * 15 <= tokens("6")


@pytest.mark.parametrize(
    ("factor", "limits", "options", "critique"),
    [
        (1, {"usd": 2}, {}, None),
        (100, {"usd": 50}, {}, False),
        (100, {"usd": 50}, {"critique": "true"}, True),
        (100, {"calls": 2000}, {}, None),
    ],
)
def test_prices_decide_on_critiques(
    factor: int, limits: dict[str, int], options: dict[str, str], critique: bool | None
) -> None:
    """Only where the budget is in dollars, and nobody decided already."""
    prices = {"price_in": str(factor), "price_out": str(4 * factor)}
    given = {"price_in": 1, "price_out": 4, "model_options": {"optimizer": prices}}
    plan = plan_of(Budget(**limits), optimizer="reflect", options=options, **given)  # type: ignore[arg-type]
    assert registry.options_of(plan.optimizer)["critique"] is critique
    said = [note for note in plan.notes if "critique off" in note]
    assert len(said) == (critique is False)
    n_written = {part.role: part.calls for part in plan.forecast.parts if part.phase == "search"}
    kept = make_plan(plan.task, replace(plan.settings, options={"critique": "true"}))
    n_kept = {part.role: part.calls for part in kept.forecast.parts if part.phase == "search"}
    assert (n_written["task"] > n_kept["task"]) == (critique is False)


def test_a_few_long_texts_are_forecast_wherever_they_lie() -> None:
    """Of 600 rows, six hold nine tenths of all text."""
    task = make_task(n_train=100, n_dev=100, n_test=400)
    long = replace(task.test[0], inputs=dict.fromkeys(task.columns, "word " * 30000))
    skewed = replace(task, test=(*task.test[:-6], *(replace(long, id=f"long-{i}") for i in range(6))))
    settings = Settings(model="sim", budget=Budget(calls=3000))
    short, found = (make_plan(each, settings).forecast.parts for each in (task, skewed))
    tokens = [sum(part.tokens for part in parts if part.role == "task") for parts in (short, found)]
    assert tokens[1] > 5 * tokens[0]


def test_dollars_decide_how_many_calls_are_expected(tmp_path: Path) -> None:
    settings = Settings("sim", budget=Budget(usd=Decimal("0.1")), out=tmp_path)
    plan, _ = prepare(bundled.folder("support") / bundled.PROMPT, "support", settings)
    spend = asyncio.run(closing(Run(plan).execute())).spend
    assert spend.cost_usd is not None
    assert spend.cost_usd <= Decimal("0.1")
    assert 0.5 <= plan.search_calls / spend.by_phase["search"].calls <= 2


def test_dear_writer_leaves_fewer_calls() -> None:
    def search_calls(price: int | None) -> int:
        prices = {} if price is None else {"price_in": price, "price_out": price}
        return plan_of(Budget(usd=Decimal(1)), **prices).search_calls

    assert search_calls(10) < search_calls(2)


def test_concurrency_is_lowered_where_reservations_allow_fewer() -> None:
    plan = plan_of(Budget(usd=Decimal("0.03")), concurrency=64)
    assert 1 <= plan.concurrency < 64
    assert any(note.startswith(f"concurrency lowered from 64 to {plan.concurrency}") for note in plan.notes)
    assert plan_of(Budget(calls=1000), concurrency=64).concurrency == 64


@pytest.mark.parametrize("proof_examples", [None, 0, 20])
def test_least_budget_is_named_and_least(proof_examples: int | None) -> None:
    task = make_task()
    settings = Settings("sim", budget=Budget(calls=10), proof_examples=proof_examples)
    with pytest.raises(ConfigError, match="too small") as refused:
        make_plan(task, settings)
    least = int(str(refused.value).partition("--budget-calls ")[2].split(",")[0])
    make_plan(task, replace(settings, budget=Budget(calls=least)))
    with pytest.raises(ConfigError, match="too small"):
        make_plan(task, replace(settings, budget=Budget(calls=least - 1)))


def test_budget_alone_leaves_identity_of_data() -> None:
    small, large = plan_of(Budget(calls=300)).identity(), plan_of(Budget(calls=5000)).identity()
    assert {key for key in small if small[key] != large[key]} == {"budget"}


def test_unknown_landscape_fails_in_time() -> None:
    with pytest.raises(ConfigError, match="landscape 'nonsense' does not exist"):
        make_plan(make_task(), Settings("sim:nonsense"))


def test_word_vectors_are_asked_for_only_where_they_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    from promptopt.optimizers.random_search import RandomSearch

    settings = Settings("sim", optimizer="random", embedding_model="sim", budget=Budget(calls=300))
    assert set(make_plan(make_task(), settings).models) == {"task", "optimizer"}
    monkeypatch.setattr(RandomSearch, "prefers", frozenset({"embeddings"}), raising=False)
    with pytest.raises(ConfigError, match="--embedding-model sim: the simulator gives no word vectors"):
        make_plan(make_task(), settings)
    served = replace(settings, embedding_model="vectors", api_base="http://127.0.0.1:9/v1")
    assert make_plan(make_task(), served).models["embedding"].name == "vectors"


def test_proof_grows_with_what_the_search_left(tmp_path: Path) -> None:
    task = make_task(n_dev=30, n_test=200)
    settings = Settings("sim", budget=Budget(usd=Decimal("0.3")), optimizer="random", out=tmp_path)
    plan = make_plan(task, settings)
    assert len(plan.task.test) < 40
    result = asyncio.run(
        closing(Run(plan, transports={"sim": Scripted(model, cost_usd=Decimal("0.0002"))}).execute())
    )
    assert result.best.test is not None
    assert result.best.test.n > 2 * len(plan.task.test)
    assert result.spend.cost_usd is not None
    assert result.spend.cost_usd <= Decimal("0.3")
