"""Money, calls and tokens: what may still be spent, decided so that no timing can change a run.

A *lease* is a share of the budget that belongs to one branch of a run. Rules:

- The worst case of a call is held before it is sent and replaced by its actual amount afterwards.
- `Lease.admit` grants the longest prefix of a batch that fits; the caller runs all of it, then asks again.
- `Lease.split` gives every item of a map an equal share of what is left. An item that needs more waits
  until every sibling has finished or waits too; what is left then is shared out again in the order of
  the items. If not even the first fits, the map's own lease asks its parent; at the root it is refused.

So what is granted depends on settled amounts in path order only, never on which answer came first.
The same answer is charged once per branch, and once per run when the branches are joined.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_DOWN, ROUND_UP, Context, Decimal
from typing import NamedTuple

from promptopt.errors import BudgetExhausted, Interrupted

_ENDLESS = 2**62
_FLOOR = Context(prec=28, rounding=ROUND_DOWN)
# Dollars are kept in whole steps of this size, so that sums and differences are exact.
_STEP_USD = Decimal("1e-12")


class Amount(NamedTuple):
    """Calls, tokens (input and output) and dollars."""

    calls: int = 0
    tokens: int = 0
    usd: Decimal = Decimal(0)

    @staticmethod
    def endless() -> Amount:
        """Return the limit that nothing reaches."""
        return Amount(_ENDLESS, _ENDLESS, Decimal("Infinity"))

    @property
    def limits_calls(self) -> bool:
        """Whether it can be reached as a limit of calls; a part of an endless one, less reserves, cannot."""
        return self.calls < _ENDLESS // 4

    def plus(self, other: Amount) -> Amount:
        """Return the sum."""
        return Amount(self.calls + other.calls, self.tokens + other.tokens, self.usd + other.usd)

    def minus(self, other: Amount) -> Amount:
        """Return the difference."""
        return Amount(self.calls - other.calls, self.tokens - other.tokens, self.usd - other.usd)

    def within(self, limit: Amount) -> Amount:
        """Return this amount with no part above `limit`."""
        return Amount(min(self.calls, limit.calls), min(self.tokens, limit.tokens), min(self.usd, limit.usd))

    def share(self, n: int) -> Amount:
        """Return the n-th part, rounded down, never below nothing."""
        usd = self.usd
        if usd.is_finite():
            usd = _FLOOR.divide(usd, Decimal(n)).quantize(_STEP_USD, ROUND_DOWN)
        return Amount(max(0, self.calls // n), max(0, self.tokens // n), max(Decimal(0), usd))

    def exact(self) -> Amount:
        """Return this amount with dollars rounded up to a step in which sums are exact."""
        if self.usd.is_infinite():
            return self
        return Amount(self.calls, self.tokens, self.usd.quantize(_STEP_USD, ROUND_UP))

    def fits(self, limit: Amount) -> bool:
        """Return whether no part of this amount is above `limit`."""
        return self.calls <= limit.calls and self.tokens <= limit.tokens and self.usd <= limit.usd

    def times(self, n: int) -> Amount:
        """Return this amount `n` times."""
        return Amount(self.calls * n, self.tokens * n, self.usd * n)

    def count_in(self, limit: Amount) -> int:
        """Return how often this amount fits into `limit`, never below 0."""
        n = min(limit.calls // max(1, self.calls), limit.tokens // max(1, self.tokens))
        if limit.usd.is_finite() and self.usd > 0:
            n = min(n, int(limit.usd / self.usd))
        return max(0, n)

    def in_words(self) -> str:
        """Name the tokens and dollars that are above 0."""
        parts = [f"{self.tokens} tokens"] if self.tokens > 0 else []
        parts += [f"${self.usd:.6f}"] if self.usd > 0 else []
        return " and ".join(parts)

    def excess(self, limit: Amount) -> str:
        """Name the parts that are above `limit`."""
        over = []
        if self.calls > limit.calls:
            over.append(f"{self.calls} calls needed, {max(0, limit.calls)} left")
        if self.tokens > limit.tokens:
            over.append(f"{self.tokens} tokens needed at worst, {max(0, limit.tokens)} left")
        if self.usd > limit.usd:
            over.append(f"${self.usd:.6f} needed at worst, ${max(Decimal(0), limit.usd):.6f} left")
        return "; ".join(over)


def limit_of(usd: Decimal | None, calls: int | None, tokens: int | None) -> Amount:
    """Return the limit as an amount; None = without limit."""
    return Amount(
        _ENDLESS if calls is None else calls,
        _ENDLESS if tokens is None else tokens,
        Decimal("Infinity") if usd is None else usd,
    )


class Stop:
    """A flag that ends admission: set once when the user interrupts."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        """Refuse every further admission."""
        self.is_set = True

    def check(self) -> None:
        """Raise Interrupted if the flag is set."""
        if self.is_set:
            raise Interrupted("interrupted; what was in flight has been kept")


class Lease:
    """A share of the budget that one branch of a run may spend."""

    def __init__(self, limit: Amount, stop: Stop | None = None) -> None:
        self.limit = limit
        self.stop = stop or Stop()
        self._spent = Amount()
        self._held = Amount()
        self._charges: dict[bytes, Amount] = {}
        self._unused: set[bytes] = set()
        self._scope: _Scope | None = None
        self._i_item = 0
        self._inner: _Scope | None = None
        self._n_waiting = 0
        self._wake: asyncio.Event | None = None

    @property
    def spent(self) -> Amount:
        """What has been settled in this branch, branches below it included."""
        return self._spent if self._inner is None else self._spent.plus(self._inner.spent())

    @property
    def available(self) -> Amount:
        """What may still be held."""
        return self.limit.minus(self.spent).minus(self._held)

    def has(self, key: bytes) -> bool:
        """Return whether the answer of `key` has been charged to this branch or one above it."""
        lease: Lease | None = self
        while lease is not None:
            if key in lease._charges:
                return True
            lease = lease._scope.owner if lease._scope else None
        return False

    def collect(self, charges: dict[bytes, Amount]) -> None:
        """Add what was charged to this branch and those below it to `charges`, each answer once."""
        charges.update(self._charges)
        if self._inner is not None:
            for lease in self._inner.leases:
                lease.collect(charges)

    def precharge(self, charges: Mapping[bytes, Amount]) -> None:
        """Charge answers that were paid before this lease was given; they are free in it."""
        for key, amount in charges.items():
            self._charges[key] = amount.exact()
            self._spent = self._spent.plus(amount.exact())
        self._unused.update(charges)

    def reuse(self, key: bytes) -> None:
        """Note that a branch uses an answer that is free in it."""
        lease: Lease | None = self
        while lease is not None:
            lease._unused.discard(key)
            lease = lease._scope.owner if lease._scope else None

    @property
    def used_calls(self) -> int:
        """Answers that this branch has used; of those that were paid before, only what it has asked for again."""
        return self.spent.calls - sum(self._charges[key].calls for key in self._unused)

    async def require(self, amount: Amount) -> None:
        """Return when `amount` is available, without holding it; nothing always is.

        Raises:
            BudgetExhausted: it will never be.
            Interrupted: the user asked to stop.
        """
        self.stop.check()
        amount = amount.exact()
        if amount == Amount():  # also where more was paid before than this lease has
            return
        while not amount.fits(self.available):
            await self._wait_for(amount)
            self.stop.check()

    async def admit(self, worst_cases: Sequence[Amount]) -> int:
        """Hold the longest prefix of `worst_cases` that fits and return its length, at least 1.

        Raises:
            BudgetExhausted: not even the first fits.
            Interrupted: the user asked to stop.
        """
        await self.require(worst_cases[0])
        n, total = self._prefix(worst_cases)
        self._held = self._held.plus(total)
        return n

    async def prefix(self, worst_cases: Sequence[Amount]) -> int:
        """Return how many of `worst_cases`, at least 1, fit together from the first on; nothing is held.

        Raises:
            BudgetExhausted: not even the first fits.
            Interrupted: the user asked to stop.
        """
        await self.require(worst_cases[0])
        return self._prefix(worst_cases)[0]

    def _prefix(self, amounts: Sequence[Amount]) -> tuple[int, Amount]:
        """Return the length and the sum of the longest prefix that fits; nothing always does."""
        n, total, available = 0, Amount(), self.available
        for amount in amounts:
            grown = total.plus(amount.exact())
            if grown != total and not grown.fits(available):
                break
            n, total = n + 1, grown
        return n, total

    def settle(self, key: bytes, worst_case: Amount, actual: Amount | None) -> None:
        """Release a held worst case and charge what the answer really took; None = no answer came."""
        self._release(worst_case.exact())
        actual = None if actual is None else actual.exact()
        if actual is not None and not self.has(key):
            self._charges[key] = actual
            self._spent = self._spent.plus(actual)
        if self._wake is not None:
            self._wake.set()
        if self._n_waiting and self._scope and self.is_idle():
            self._scope.check()

    def split(self, n: int) -> list[Lease]:
        """Return `n` leases, each an equal share of what is left; end with `join`."""
        self._inner = _Scope(self, n)
        return self._inner.leases

    def join(self) -> None:
        """Take back the leases of `split`: charge each answer once, in the order of the items."""
        if self._inner is None:
            return
        leases, self._inner = self._inner.leases, None
        for lease in leases:
            for key, amount in lease._charges.items():
                if not self.has(key):
                    self._charges[key] = amount
                    self._spent = self._spent.plus(amount)

    def finish(self) -> None:
        """Say that the item of this lease is done, so that siblings may share what it left."""
        if self._scope:
            self._scope.finish(self._i_item)

    def is_idle(self) -> bool:
        """Return whether nothing is in flight in this branch."""
        return self._held.calls == 0

    def _release(self, worst_case: Amount) -> None:
        """Give back what was held; with no call in flight nothing is held, whatever dollars were rounded."""
        self._held = self._held.minus(worst_case)
        if self.is_idle():
            self._held = Amount()

    async def _wait_for(self, amount: Amount) -> None:
        """Wait for own settlements first, then ask the map that this lease is an item of."""
        self._n_waiting += 1
        try:
            if not self.is_idle():
                if self._wake is None or self._wake.is_set():
                    self._wake = asyncio.Event()
                await self._wake.wait()
            elif self._scope is None:
                raise BudgetExhausted(f"budget exhausted: {amount.excess(self.available)}")
            else:
                await self._scope.ask(self._i_item, amount)
        finally:
            self._n_waiting -= 1


class _Scope:
    """The leases of one map's items, and the rule by which they are topped up."""

    def __init__(self, owner: Lease, n: int) -> None:
        self.owner = owner
        share = owner.available.share(n)
        self.leases = [Lease(share, owner.stop) for _ in range(n)]
        for i, lease in enumerate(self.leases):
            lease._scope, lease._i_item = self, i
        self._is_done = [False] * n
        self._asking: dict[int, tuple[Amount, asyncio.Future[None]]] = {}
        self._dealing: asyncio.Task[None] | None = None
        self._n_waiters = [0] * n  # calls of an item that its entry in `_asking` speaks for
        self._n_waking = [0] * n  # calls that were dealt to, but have not run since

    def spent(self) -> Amount:
        """Sum what the items spent, an answer that several of them used once."""
        charges: dict[bytes, Amount] = {}
        for lease in self.leases:
            lease.collect(charges)
        return _sum(charges.values())

    async def ask(self, i_item: int, amount: Amount) -> None:
        """Wait until item `i_item` has been dealt more; raise BudgetExhausted if it never will."""
        before = self._asking.get(i_item)
        if before is not None:  # several calls of one item wait: the first speaks for all
            future = before[1]
        else:
            future = asyncio.get_running_loop().create_future()
            self._asking[i_item] = (amount, future)
        self._n_waiters[i_item] += 1
        self.check()
        await asyncio.shield(future)
        self._n_waking[i_item] -= 1
        asyncio.get_running_loop().call_soon(self.check)

    def finish(self, i_item: int) -> None:
        """Note that an item is done."""
        self._is_done[i_item] = True
        self.check()

    def check(self) -> None:
        """Deal as soon as every item is done, or waits with nothing in flight."""
        if self._asking and self._dealing is None and self._is_quiet():
            self._dealing = asyncio.get_running_loop().create_task(self._deal())

    def _is_quiet(self) -> bool:
        return all(
            is_done or (i in self._asking and lease.is_idle() and not self._n_waking[i])
            for i, (is_done, lease) in enumerate(zip(self._is_done, self.leases, strict=True))
        )

    async def _deal(self) -> None:
        if not self._is_quiet():  # an item sent another call since; its settlement checks again
            self._dealing = None
            return
        asking = dict(sorted(self._asking.items()))
        for i_item in asking:  # what is left of their shares goes back into the pool
            self.leases[i_item].limit = self.leases[i_item].spent
        try:
            grants = self._grants(asking)
            if not grants:
                i_first, (amount, _) = next(iter(asking.items()))
                await self.owner.require(amount)
                grants = self._grants(asking) or {i_first: amount}
        except (BudgetExhausted, Interrupted) as error:
            self._asking.clear()
            self._n_waiters = [0] * len(self.leases)
            self._dealing = None
            for _, future in asking.values():
                future.set_exception(type(error)(str(error)))
            return
        self._dealing = None
        for i_item, grant in grants.items():
            self.leases[i_item].limit = self.leases[i_item].spent.plus(grant)
            self._n_waking[i_item], self._n_waiters[i_item] = self._n_waiters[i_item], 0
            self._asking.pop(i_item)[1].set_result(None)

    def _grants(self, asking: dict[int, tuple[Amount, asyncio.Future[None]]]) -> dict[int, Amount]:
        pool = self.owner.available
        share = pool.share(len(asking))
        if all(amount.fits(share) for amount, _ in asking.values()):
            return dict.fromkeys(asking, share)
        grants: dict[int, Amount] = {}
        for i_item, (amount, _) in asking.items():
            if not amount.fits(pool):
                break
            grants[i_item], pool = amount, pool.minus(amount)
        return grants


def _sum(amounts: Iterable[Amount]) -> Amount:
    total = Amount()
    for amount in amounts:
        total = total.plus(amount)
    return total
