"""The ledger grants the same at any latency, never more than the limit, and leaves no branch waiting."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt.errors import BudgetExhausted, Interrupted
from promptopt.ledger import Amount, Lease, Stop, limit_of

N_LATENCIES = 50

amounts = st.builds(
    Amount,
    st.integers(0, 10**6),
    st.integers(0, 10**9),
    st.decimals(0, 10**6, places=9, allow_nan=False, allow_infinity=False),
)


def bounded(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that must not hang."""

    async def run() -> Any:
        async with asyncio.timeout(3):
            return await coroutine

    return asyncio.run(run())


def calls(n: int) -> Amount:
    return Amount(calls=n)


# Amounts -----------------------------------------------------------------------------------------


@given(amounts, amounts)
def test_sum_and_difference_are_inverse(a: Amount, b: Amount) -> None:
    assert a.plus(b).minus(b) == a
    assert a.plus(b) == b.plus(a)
    assert a.fits(a.plus(b))


@given(amounts, st.integers(1, 1000))
def test_shares_never_add_up_to_more_than_the_whole(a: Amount, n: int) -> None:
    share = a.share(n)
    assert Amount(share.calls * n, share.tokens * n, share.usd * n).fits(a)


def test_share_of_a_third_rounds_down() -> None:
    share = Amount(10, 10, Decimal(1)).share(3)
    assert share[:2] == (3, 3)
    assert Decimal("0.333333333") < share.usd < Decimal("0.333333334")
    assert share.usd * 3 <= 1
    assert Amount(-1, -1, Decimal(-1)).share(2) == Amount()


def test_endless_stays_endless() -> None:
    endless = Amount.endless()
    assert Amount(10**15, 10**15, Decimal(10**15)).fits(endless.minus(Amount(5, 5, Decimal(5))))
    assert endless.share(7).usd == Decimal("Infinity")
    assert limit_of(None, None, None) == endless
    assert limit_of(Decimal(2), 3, 4) == Amount(3, 4, Decimal(2))


def test_fits_needs_every_part() -> None:
    limit = Amount(1, 10, Decimal("0.5"))
    assert limit.fits(limit)
    for above in (Amount(2), Amount(0, 11), Amount(0, 0, Decimal("0.51"))):
        assert not above.fits(limit)


def test_excess_names_only_what_is_above() -> None:
    limit = Amount(1, 10, Decimal("-0.5"))
    assert limit.excess(limit) == ""
    assert Amount(2, 5, Decimal(-1)).excess(limit) == "2 calls needed, 1 left"
    text = Amount(1, 11, Decimal("0.25")).excess(limit)
    assert text == "11 tokens needed at worst, 10 left; $0.250000 needed at worst, $0.000000 left"


# One lease ---------------------------------------------------------------------------------------


def test_admits_the_longest_prefix_then_the_next_wave() -> None:
    async def run() -> None:
        lease = Lease(Amount(10, 100, Decimal(1)))
        assert await lease.admit([Amount(1, 40)] * 4) == 2
        assert lease.available == Amount(8, 20, Decimal(1))
        for key in (b"a", b"b"):
            lease.settle(key, Amount(1, 40), Amount(1, 10))
        assert lease.spent == Amount(2, 20)
        assert await lease.admit([Amount(1, 40)] * 2) == 2
        for key in (b"c", b"d"):
            lease.settle(key, Amount(1, 40), Amount(1, 40))
        assert lease.available.tokens == 0
        with pytest.raises(BudgetExhausted, match="1 tokens needed at worst, 0 left"):
            await lease.admit([Amount(1, 1)])

    bounded(run())


def test_prefix_ends_at_the_first_that_does_not_fit_even_if_later_ones_would() -> None:
    async def run() -> None:
        lease = Lease(Amount(10, 100))
        assert await lease.admit([Amount(1, 50), Amount(1, 60), Amount(1, 1)]) == 1

    bounded(run())


def test_what_costs_nothing_fits_even_where_more_was_paid_before_than_there_is() -> None:
    lease = Lease(calls(1))
    lease.precharge({b"a": calls(3)})
    assert bounded(lease.prefix([Amount(), Amount(), calls(1)])) == 2
    assert bounded(lease.admit([Amount(), calls(1)])) == 1


def test_an_answer_is_charged_once_and_a_missing_one_not_at_all() -> None:
    lease = Lease(Amount(5, 50))
    assert bounded(lease.admit([calls(1)] * 3)) == 3
    lease.settle(b"a", calls(1), calls(1))
    lease.settle(b"a", calls(1), calls(1))
    lease.settle(b"b", calls(1), None)
    assert lease.spent == calls(1)
    assert lease.available == Amount(4, 50)
    assert lease.has(b"a")
    assert not lease.has(b"b")


def test_waits_for_own_settlements_before_refusing() -> None:
    async def run() -> list[str]:
        lease, log = Lease(Amount(9, 100)), []

        async def ask(key: bytes) -> None:
            await lease.admit([Amount(1, 100)])
            log.append(f"{key.decode()} sent")
            await asyncio.sleep(0)
            lease.settle(key, Amount(1, 100), Amount(1, 0))

        await asyncio.gather(*(ask(key) for key in (b"a", b"b", b"c")))
        return log

    assert sorted(bounded(run())) == ["a sent", "b sent", "c sent"]


def test_require_holds_nothing() -> None:
    lease = Lease(calls(2))
    bounded(lease.require(calls(2)))
    assert lease.available == calls(2)
    with pytest.raises(BudgetExhausted):
        bounded(lease.require(calls(3)))


def test_prices_with_endless_digits_leave_the_branch_idle() -> None:
    """Sums of such worst cases are rounded; what is held must still come back to exactly nothing."""
    third = Decimal(1) / Decimal(3)
    worst = [Amount(1, 1, third * n) for n in (1, 17, 1003, 100_007)]

    async def run() -> None:
        lease = Lease(Amount(100, 100, Decimal(10**6)))
        assert await lease.admit(worst) == 4
        for i in (2, 0, 3, 1):
            lease.settle(bytes([i]), worst[i], Amount(1, 1, third))
        assert lease.is_idle()
        with pytest.raises(BudgetExhausted):
            await lease.admit([calls(1000)])

    bounded(run())


# Branches ----------------------------------------------------------------------------------------


def test_split_shares_equally_and_join_takes_the_rest_back() -> None:
    async def run() -> None:
        root = Lease(Amount(10, 100, Decimal(1)))
        first, second, third = root.split(3)
        assert first.limit.calls == second.limit.calls == third.limit.calls == 3
        await first.admit([calls(1)])
        first.settle(b"a", calls(1), calls(1))
        assert root.available.calls == 9
        for lease in (first, second, third):
            lease.finish()
        root.join()
        assert root.spent == calls(1)
        assert root.available.calls == 9

    bounded(run())


def test_an_answer_shared_by_branches_costs_each_its_share_and_the_run_once() -> None:
    async def run() -> None:
        root = Lease(Amount(10, 100))
        left, right = root.split(2)
        inner = right.split(2)
        for lease in (left, *inner):
            await lease.admit([calls(1)])
            lease.settle(b"same", calls(1), calls(1))
            assert lease.spent == calls(1)
        assert right.spent == calls(1)
        assert root.spent == calls(1), "an answer below two levels of branches is one answer"
        right.join()
        assert right.spent == calls(1)
        root.join()
        assert root.spent == calls(1)
        (again,) = root.split(1)
        assert again.has(b"same")
        assert await again.admit([calls(1)]) == 1
        again.settle(b"same", calls(1), calls(1))
        assert again.spent == Amount(), "paid above, hence free below"

    bounded(run())


def test_what_a_finished_sibling_left_goes_to_who_waits() -> None:
    async def run() -> int:
        root = Lease(calls(10))
        greedy, modest = root.split(2)

        async def spend() -> int:
            n = 0
            try:
                while True:
                    await greedy.admit([calls(1)])
                    greedy.settle(b"%d" % n, calls(1), calls(1))
                    n += 1
            except BudgetExhausted:
                return n
            finally:
                greedy.finish()

        task = asyncio.create_task(spend())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done(), "it waits for the sibling"
        modest.finish()
        n = await task
        root.join()
        assert root.available == Amount()
        return n

    assert bounded(run()) == 10


def test_a_lone_branch_is_refused_with_what_is_left() -> None:
    async def run() -> None:
        (only,) = Lease(calls(3)).split(1)
        with pytest.raises(BudgetExhausted, match="4 calls needed, 3 left"):
            await only.admit([calls(4)])

    bounded(run())


# Random trees of branches ------------------------------------------------------------------------


class Ask(NamedTuple):
    """A request: the worst case and the actual amount follow from its key."""

    key: int

    @property
    def worst(self) -> Amount:
        draw = random.Random(self.key)
        return Amount(1, draw.randint(20, 200), Decimal(draw.randint(10, 99)) / 7)

    @property
    def actual(self) -> Amount:
        draw, worst = random.Random(-self.key), self.worst
        return Amount(1, draw.randint(0, worst.tokens), worst.usd * draw.randint(0, 10) / 10)


@dataclass
class Branch:
    """A branch's steps: batches of requests, gathered single requests, or maps over branches."""

    steps: list[list[Ask] | list[Branch]]
    goes_on: bool  # whether it catches a refusal, as a race does that is cut short


def grow(draw: random.Random, depth: int, n_keys: int, *, is_stubborn: bool) -> Branch:
    steps: list[list[Ask] | list[Branch]] = []
    for _ in range(draw.randint(1, 3)):
        if depth and draw.random() < 0.6:
            n = draw.randint(1, 4)
            steps.append([grow(draw, depth - 1, n_keys, is_stubborn=is_stubborn) for _ in range(n)])
        else:
            steps.append([Ask(draw.randrange(1, n_keys)) for _ in range(draw.randint(1, 6))])
    return Branch(steps, goes_on=is_stubborn and draw.random() < 0.5)


@dataclass
class World:
    """Runs a tree at one latency seed and watches the limit at every step."""

    limit: Amount
    latency: random.Random
    root: Lease
    settled: dict[int, Amount] = field(default_factory=dict)
    held: Amount = field(default_factory=Amount)
    refused: list[tuple[tuple[int, ...], Ask]] = field(default_factory=list)
    interrupted: int = 0

    async def run(self, tree: Branch) -> None:
        with suppress(BudgetExhausted, Interrupted):
            await self.branch(tree, self.root, ())

    async def branch(self, branch: Branch, lease: Lease, path: tuple[int, ...]) -> None:
        for i, step in enumerate(branch.steps):
            try:
                if isinstance(step[0], Branch):
                    await self.map(step, lease, (*path, i))  # type: ignore[arg-type]
                else:
                    await self.ask(step, lease, (*path, i))  # type: ignore[arg-type]
            except BudgetExhausted:
                if not branch.goes_on:
                    raise

    async def map(self, branches: Sequence[Branch], lease: Lease, path: tuple[int, ...]) -> None:
        leases = lease.split(len(branches))

        async def run(i: int) -> None:
            try:
                await self.branch(branches[i], leases[i], (*path, i))
            finally:
                leases[i].finish()

        results = await asyncio.gather(*map(run, range(len(branches))), return_exceptions=True)
        lease.join()
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def ask(self, asks: Sequence[Ask], lease: Lease, path: tuple[int, ...]) -> None:
        todo = [ask for ask in dict.fromkeys(asks) if not lease.has(b"%d" % ask.key)]
        while todo:
            await self.pause()
            try:
                n = await lease.admit([ask.worst for ask in todo])
            except BudgetExhausted:
                self.refused.append((path, todo[0]))
                raise
            except Interrupted:
                self.interrupted += 1
                raise
            wave, todo = todo[:n], todo[n:]
            for ask in wave:
                self.held = self.held.plus(ask.worst)
            self.check()
            await asyncio.gather(*(self.fly(ask, lease) for ask in wave))

    async def fly(self, ask: Ask, lease: Lease) -> None:
        await self.pause()
        self.held = self.held.minus(ask.worst)
        self.settled[ask.key] = ask.actual
        lease.settle(b"%d" % ask.key, ask.worst, ask.actual)
        self.check()

    async def pause(self) -> None:
        for _ in range(self.latency.randrange(6)):
            await asyncio.sleep(0)

    def check(self) -> None:
        total = self.held
        for amount in self.settled.values():
            total = total.plus(amount)
        slack = Amount(0, 0, Decimal("1e-9"))  # a run's shares of dollars are rounded at the 12th digit
        assert total.fits(self.limit.plus(slack)), f"{total} is above {self.limit}"

    def outcome(self) -> tuple[Any, ...]:
        usd = self.root.spent.usd.quantize(Decimal("1e-9"))
        return sorted(self.refused), sorted(self.settled), self.root.spent[:2], usd


def forest(seed: int, *, is_stubborn: bool) -> tuple[Branch, Amount]:
    """Return a tree and a limit that it may or may not reach, in a dimension chosen at random."""
    draw = random.Random(seed)
    n_keys = draw.choice([12, 60, 10_000])
    tree = grow(draw, 3, n_keys, is_stubborn=is_stubborn)
    limits = [
        Amount(draw.randint(3, 60), 10**9, Decimal("Infinity")),
        Amount(10**9, draw.randint(200, 4000), Decimal(10**9)),
        Amount(10**9, 10**9, Decimal(draw.randint(20, 300))),
        Amount(draw.randint(10, 60), draw.randint(500, 4000), Decimal(draw.randint(50, 300))),
    ]
    return tree, draw.choice(limits)


def play(tree: Branch, limit: Amount, latency_seed: int) -> World:
    world = World(limit, random.Random(latency_seed), Lease(limit))
    bounded(world.run(tree))
    return world


@pytest.mark.parametrize("is_stubborn", [False, True], ids=["ends when refused", "goes on when refused"])
@pytest.mark.parametrize("seed", range(20))
def test_outcome_depends_on_no_latency(seed: int, is_stubborn: bool) -> None:
    tree, limit = forest(seed, is_stubborn=is_stubborn)
    expected = play(tree, limit, 0).outcome()
    for latency_seed in range(1, N_LATENCIES):
        assert play(tree, limit, latency_seed).outcome() == expected


@pytest.mark.parametrize("seed", range(150))
def test_refuses_only_when_nothing_is_left(seed: int) -> None:
    tree, limit = forest(seed, is_stubborn=False)
    world = play(tree, limit, seed)
    if not world.refused:
        return
    _, first = min(world.refused)
    left = limit.minus(world.root.spent)
    assert not first.worst.fits(left), f"refused {first.worst} although {left} was left"
    assert world.root.is_idle()


def test_the_random_trees_do_reach_their_limits() -> None:
    worlds = [play(*forest(seed, is_stubborn=False), seed) for seed in range(60)]
    n_refused = sum(bool(world.refused) for world in worlds)
    assert 20 <= n_refused < 60


# Several requests at once within one branch --------------------------------------------------------


class Gathering(World):
    """Every branch sends the requests of a batch on their own, as a user's predict function may."""

    async def ask(self, asks: Sequence[Ask], lease: Lease, path: tuple[int, ...]) -> None:
        results = await asyncio.gather(
            *(super(Gathering, self).ask([ask], lease, path) for ask in asks), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result


@pytest.mark.parametrize("seed", range(100))
def test_concurrent_requests_of_one_branch_stay_within_the_limit(seed: int) -> None:
    tree, limit = forest(seed, is_stubborn=bool(seed % 2))
    world = Gathering(limit, random.Random(seed), Lease(limit))
    bounded(world.run(tree))
    assert world.root.is_idle()
    assert world.held.calls == 0


def test_requests_that_come_while_the_branch_waits_share_what_it_is_dealt() -> None:
    """Whoever asks for more speaks for the whole branch; nothing that waits is forgotten or overdrawn."""

    async def run() -> None:
        root = Lease(Amount(100, 100))
        left, right = root.split(2)
        (inner,) = left.split(1)
        await right.admit([Amount(1, 50)])  # in flight: nothing can be dealt yet
        sent: list[bytes] = []

        async def ask(key: bytes, worst: Amount) -> None:
            await inner.admit([worst])
            sent.append(key)
            assert inner.spent.plus(Amount(0, 20)).plus(worst).tokens <= 100
            await asyncio.sleep(0)
            inner.settle(key, worst, Amount(1, 5))

        tasks = [asyncio.create_task(ask(*row)) for row in ((b"big", Amount(1, 60)), (b"small", Amount(1, 45)))]
        for _ in range(5):
            await asyncio.sleep(0)
        assert b"big" not in sent
        right.settle(b"right", Amount(1, 50), Amount(1, 20))
        right.finish()
        await asyncio.gather(*tasks)
        assert sorted(sent) == [b"big", b"small"]

    bounded(run())


# Interruption ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_a_stop_interrupts_every_branch_and_hangs_none(seed: int) -> None:
    tree, limit = forest(seed, is_stubborn=False)
    stop = Stop()
    world = World(limit, random.Random(seed), Lease(limit, stop))

    async def run() -> None:
        task = asyncio.create_task(world.run(tree))
        for _ in range(random.Random(seed).randrange(40)):
            await asyncio.sleep(0)
        stop.set()
        await task

    bounded(run())
    assert world.held.calls == 0
    assert world.root.is_idle()


def test_a_stop_reaches_branches_that_wait_for_a_sibling() -> None:
    async def run() -> None:
        stop = Stop()
        root = Lease(calls(3), stop)
        greedy, busy = root.split(2)
        await busy.admit([calls(1)])
        waiting = asyncio.create_task(greedy.admit([calls(2)]))
        await asyncio.sleep(0)
        stop.set()
        with pytest.raises(Interrupted):
            await busy.admit([calls(1)])
        busy.settle(b"a", calls(1), calls(1))
        busy.finish()
        with pytest.raises(Interrupted):
            await waiting

    bounded(run())
