"""Mappings with a bound: what meets ever new peers for years must not grow with them."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Bounded(OrderedDict[K, V]):
    """A dict of at most `most` entries. Writing one more removes the entry that was written or touched longest ago.

    `keep(key)` is True for entries that go last: only when every other entry has gone. The entry just written is never
    the one that is removed.
    """

    def __init__(self, most: int, *, keep: Callable[[K], bool] | None = None) -> None:
        """Raises ValueError when `most` is not at least 1."""
        if most < 1:
            raise ValueError(f"a bounded mapping holds at least one entry, not {most}")
        super().__init__()
        self.most = most
        self._keep = keep

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > self.most:
            del self[self._oldest(besides=key)]

    def touch(self, key: K) -> None:
        """Count this entry as used now. Raises KeyError when it is not here."""
        self.move_to_end(key)

    def _oldest(self, *, besides: K) -> K:
        others = (key for key in self if key != besides)
        first = next(others)
        if self._keep is None or not self._keep(first):
            return first
        return next((key for key in others if not self._keep(key)), first)


class BoundedBytes(Generic[K, V]):
    """Values that together hold at most `most` bytes. The one that was put or got longest ago goes first.

    `size` gives the bytes of a value, always as many for the same value.
    """

    def __init__(self, most: int, size: Callable[[V], int]) -> None:
        """With a `most` of 0 only values of no bytes are kept."""
        self._most = most
        self._size = size
        self._entries: OrderedDict[K, V] = OrderedDict()
        self.nbytes = 0
        """Of all values here."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    @property
    def entries(self) -> Mapping[K, V]:
        """The entries, oldest first."""
        return self._entries

    def newest_first(self) -> Iterator[tuple[K, V]]:
        """Keys and values, the one that was put or got last first. Nothing counts as used by that."""
        return reversed(self._entries.items())

    def get(self, key: K) -> V | None:
        """The value, which counts as used now; None when it is not here."""
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: K, value: V) -> list[V]:
        """Keep this value under this key. Returns the values that had to go for it; a value that is larger than `most`
        goes itself, and nothing else does."""
        self.pop(key)
        if self._size(value) > self._most:
            return [value]
        self._entries[key] = value
        self.nbytes += self._size(value)
        gone = []
        while self.nbytes > self._most:
            oldest = next(iter(self._entries))
            gone.append(self._entries[oldest])
            self.pop(oldest)
        return gone

    def pop(self, key: K) -> V | None:
        """Remove and return the value; None when it is not here."""
        value = self._entries.pop(key, None)
        if value is not None:
            self.nbytes -= self._size(value)
        return value
