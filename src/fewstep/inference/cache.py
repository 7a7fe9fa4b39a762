"""A cache of least recently used values, bounded in bytes: the number of different requests has no bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """The values used last, as many as fit into ``limit`` bytes; one that is larger by itself is not kept."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.nbytes = 0
        """Bytes in the cache now."""

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def get(self, key: K) -> V | None:
        """The cached value, which counts as used now; None if there is none."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, nbytes: int) -> None:
        """Remember a value that takes so many bytes; those used longest ago go."""
        self.nbytes -= self._values.pop(key, (None, 0))[1]
        self._values[key] = (value, nbytes)
        self.nbytes += nbytes
        while self.nbytes > self.limit:
            _, (_, gone) = self._values.popitem(last=False)
            self.nbytes -= gone
