"""Who learns from whom, by shape or link by link."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from peerlearn.errors import ConfigError
from peerlearn.schema import at_least


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """`[topology]`: who learns from whom. `full`: all from all. `half`: `hub` from all the others. `star`: `hub` from
    all, all from `hub`. `chain`: each from the next, the last from none. `cycle`: the same, the last from the first.
    `islands`: full inside each of so many groups. `none`. `links`: as listed, by peer; a peer that is not listed
    learns from none.
    """

    kind: Literal["full", "half", "star", "chain", "cycle", "islands", "none", "links"] = "full"
    hub: str = ""
    islands: int = 2
    links: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least(1, islands=self.islands)
        if bool(self.hub) != (self.kind in ("half", "star")):
            raise ConfigError(f"kind {self.kind}: a hub is named for half and star, and for no other")
        if bool(self.links) != (self.kind == "links"):
            raise ConfigError(f"kind {self.kind}: links are listed for links, and for no other")

    def providers(self, peers: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
        """Names of the providers of each peer."""
        for name in {self.hub, *self.links, *(p for ps in self.links.values() for p in ps)} - {"", *peers}:
            raise ConfigError(f"topology: there is no peer {name!r}, only {', '.join(peers)}")
        return {peer: self._of(number, peer, peers) for number, peer in enumerate(peers)}

    def _of(self, number: int, peer: str, peers: tuple[str, ...]) -> tuple[str, ...]:
        others = tuple(other for other in peers if other != peer)
        match self.kind:
            case "full":
                return others
            case "half":
                return others if peer == self.hub else ()
            case "star":
                return others if peer == self.hub else (self.hub,)
            case "chain":
                return peers[number + 1 : number + 2]
            case "cycle":
                return (peers[(number + 1) % len(peers)],) if others else ()
            case "islands":
                island = number * self.islands // len(peers)
                return tuple(p for n, p in enumerate(peers) if n * self.islands // len(peers) == island and p != peer)
            case "links":
                return self.links.get(peer, ())
            case "none":
                return ()
