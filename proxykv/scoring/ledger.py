"""Results that the methods of a context share, each computed once, with what each of them costs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, MutableMapping
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from proxykv.model.devices import clock
from proxykv.model.prefill import Prefill

T = TypeVar("T")

Results = MutableMapping[Hashable, tuple[Any, float]]
"""Results by key, each with the seconds that it took."""


class Ledger:
    """Shared results and their costs.

    Two methods may need the same scores. They are computed once, and both methods are charged for
    them in full: a method's seconds are what it would take on its own.
    """

    def __init__(self) -> None:
        """Start empty. A context's results go when the context does."""
        self._results: WeakKeyDictionary[Prefill, Results] = WeakKeyDictionary()
        self._saved = 0.0

    def once(
        self,
        prefill: Prefill,
        key: Hashable,
        compute: Callable[[], T],
        results: Results | None = None,
    ) -> T:
        """Compute a result on the first call for a key; return the same result afterwards.

        Args:
            prefill: the context that the result belongs to.
            key: what the result depends on besides the context.
            compute: makes the result.
            results: where the result is kept, if not with the context.
        """
        known = self._of(prefill) if results is None else results
        if key in known:
            value, seconds = known[key]
            self._saved += seconds
            return value
        known[key] = self.timed(prefill, compute)
        return known[key][0]

    def put(self, prefill: Prefill, key: Hashable, value: Any, seconds: float) -> None:
        """Store a result that was computed elsewhere.

        Args:
            prefill: the context that the result belongs to.
            key: what the result depends on, in addition to the context.
            value: the result.
            seconds: time that the result took.
        """
        self._of(prefill)[key] = value, seconds

    def timed(self, prefill: Prefill, compute: Callable[[], T]) -> tuple[T, float]:
        """Compute a result and the seconds that it would take alone: shared parts count in full.

        Args:
            prefill: the context that the result belongs to.
            compute: makes the result.
        """
        device = prefill.model.device
        saved, start = self._saved, clock(device)
        value = compute()
        return value, clock(device) - start + self._saved - saved

    def waive(self, seconds: float) -> None:
        """Leave seconds out of what is being timed: work that the timed method does not need."""
        self._saved -= seconds

    def _of(self, prefill: Prefill) -> Results:
        return self._results.setdefault(prefill, {})
