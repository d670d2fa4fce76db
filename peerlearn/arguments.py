"""Arguments of a Peer in three groups: Network, Sharing and Internals. Checked before anything is opened."""

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peerlearn.casts import check_cast
from peerlearn.config import Limits, Timing
from peerlearn.discovery.base import Discovery
from peerlearn.discovery.interfaces import is_loopback
from peerlearn.errors import ConfigError
from peerlearn.learning.learner import Learner
from peerlearn.orchestrator.checkpointing.policy import SAVE_EVERY
from peerlearn.orchestrator.checkpointing.store import Store
from peerlearn.orchestrator.exposure import EVERYBODY, Allowance
from peerlearn.orchestrator.training.compute import Compute
from peerlearn.security.group import Group
from peerlearn.security.identity import Identity
from peerlearn.strategies.base import Strategy
from peerlearn.text import listed
from peerlearn.transport.base import Transport
from peerlearn.types import Address, Card, Exposure

NAME_CHARS = 64
"""Longest name of a peer, in characters: a table of peers then fits on a terminal."""

ID_START = 6
"""Hex digits of an id that are enough to name a peer. Among a thousand peers, two share their first 6 digits in about 3
networks of 100."""

Expose = Iterable[Exposure | str] | Mapping[str, Iterable[Exposure | str]]
"""Allowed exposures: one set for all peers, or a mapping from a peer's full id or name to its set ("*": all others)."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """Address, group, discovery, timing and limits of a peer.

    Raises ConfigError for arguments that cannot work together, GroupError when the group file cannot be used.
    """

    listen: Address | str | None = None
    """HOST:PORT. None: a free port on loopback, or on all interfaces with `group` or `insecure`."""
    peers: Iterable[Address | str] = ()
    """Addresses of other peers, HOST:PORT, in addition to those that mDNS finds."""
    group: Group | Path | str | None = None
    """A group, or the path of its file. Only members are let in, by mutual TLS, and the peer listens on the LAN."""
    insecure: bool = False
    """Listen on the LAN without encryption and without the authentication of a group."""
    group_tag: str = ""
    """Peers ignore peers with another tag. No secret: use `group` for authentication."""
    timing: Timing = field(default_factory=Timing)
    """Heartbeats, deadlines and pauses, in seconds."""
    limits: Limits = field(default_factory=Limits)
    """Bounds on the bytes, peers and calls that others may cost this peer."""

    def __post_init__(self) -> None:
        group = group_of(self.group)
        peers = tuple(each if isinstance(each, Address) else Address.parse(each) for each in self.peers)
        object.__setattr__(self, "group", group)
        object.__setattr__(self, "peers", peers)
        object.__setattr__(self, "listen", listen_address(self.listen, insecure=self.insecure, group=group is not None))

    @property
    def address(self) -> Address:
        """`listen`, parsed, with the default filled in. Port 0: a free port."""
        assert isinstance(self.listen, Address)
        return self.listen

    @property
    def membership(self) -> Group | None:
        """`group`, read from its file; None without a group."""
        assert self.group is None or isinstance(self.group, Group)
        return self.group

    @property
    def addresses(self) -> tuple[Address, ...]:
        """`peers`, parsed."""
        return tuple(each for each in self.peers if isinstance(each, Address))


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Exposures of a peer to others, and the providers it learns from. Raises ConfigError for values that make no
    sense."""

    expose: Expose | None = None
    """Exposures that are allowed; they must include all that the strategy shows. None: just those. A mapping has one
    set per peer, by id or name, and "*" for all others."""
    learn_from: Iterable[str] | None = None
    """Names or ids (at least the first 6 digits) of the wanted providers. None: every provider that fits."""
    most_providers: int | None = None
    """Upper bound on the providers asked in one exchange; the most promising are asked. None: all are asked."""
    cast: str = ""
    """Lossy conversion of answers to this peer, for a slow network: "" (lossless), "bfloat16", "float16", "int8", or
    "topk:0.01". With topk, this peer keeps each provider's last values, and an exchange updates only the given share of
    them: the values that changed most. A strategy that names a cast in its own query gets that one."""

    def __post_init__(self) -> None:
        check_cast(self.cast)
        if self.most_providers is not None and self.most_providers < 1:
            raise ConfigError(f"most_providers must be at least 1, not {self.most_providers}; None asks all")
        if self.learn_from is not None:
            object.__setattr__(self, "learn_from", _wanted(self.learn_from))

    def wants(self, provider: Card) -> bool:
        """True if `learn_from` names this provider, by its name or the start of its id, or names no provider."""
        if self.learn_from is None:
            return True
        return any(
            provider.name == named or (len(named) >= ID_START and provider.id.startswith(named))
            for named in self.learn_from
        )


@dataclass(frozen=True, kw_only=True)
class Internals:
    """Replacements for parts of a peer: for tests, simulation and special networks. Raises ConfigError."""

    identity: Identity | None = None
    """Signing key. None: the key in the state directory; without a state directory, a new key for this run."""
    transport: Transport | None = None
    """Carrier of calls between peers. None: gRPC."""
    discovery: Sequence[Discovery] | None = None
    """Ways to find other peers, in addition to `Network.peers`. None: mDNS."""
    compute: Callable[[str], Compute] | None = None
    """Makes the worker that runs torch code; called with "learner" and with "answers". None: one thread each."""
    store: Callable[[Learner, Strategy], Store] | None = None
    """Makes the store of checkpoints. None: the state directory."""
    session: str = ""
    """16 hex digits that distinguish one run of a peer from the next. Empty: random."""
    save_every: float = SAVE_EVERY
    """Seconds of a long local span that a crash may cost. Snapshots, and spans of more than a second, are also saved at
    their end."""

    def __post_init__(self) -> None:
        if not self.save_every > 0:
            raise ConfigError(f"save_every must be a positive number of seconds, not {self.save_every}")


def name_of(name: str) -> str:
    """`name`, or a random name if it is empty. Raises ConfigError for a name too long or not printable."""
    if len(name) > NAME_CHARS or not name.isprintable():
        raise ConfigError(f"a peer's name is at most {NAME_CHARS} printable characters, not {name[:80]!r}")
    return name or f"peer-{secrets.token_hex(3)}"  # 6 digits: short enough to type, see ID_START


def listen_address(listen: Address | str | None, *, insecure: bool, group: bool = False) -> Address:
    """The address to listen on: loopback by default, all interfaces by default with a group or with `insecure`.

    Raises ConfigError for an address beyond loopback that has neither, so that no peer is open to the LAN by accident.
    """
    if insecure and group:
        raise ConfigError("a group and --insecure (insecure=True) exclude one another: leave one of them out")
    if listen is None:
        return Address("0.0.0.0" if insecure or group else "127.0.0.1", 0)
    address = listen if isinstance(listen, Address) else Address.parse(listen, default_port=0)
    if not insecure and not group and not is_loopback(address.host):
        raise ConfigError(
            f"listening on {address} would let everybody on the network in, unencrypted: "
            "give it a --group (peerlearn group new), or listen on 127.0.0.1; "
            "or add --insecure (insecure=True) if that is what you want"
        )
    return address


def group_of(group: Group | Path | str | None) -> Group | None:
    """The group, read from its file if `group` is a path. Raises GroupError, and ConfigError for an empty path: an
    empty variable in a script must not switch encryption off."""
    if group is None or isinstance(group, Group):
        return group
    if not str(group).strip():
        raise ConfigError("the name of the group file is empty: name one, or leave the group out")
    return Group.load(group)


def allowance(strategy: Strategy, expose: Expose | None) -> Allowance:
    """The allow-list of this peer: `expose`, or just what the strategy shows if `expose` is None.

    Raises ConfigError if `expose` lacks an exposure that the strategy shows, or shows class counts to some peers only:
    class counts stand in the card, and all peers see the same card.
    """
    if expose is None:
        return Allowance(strategy.exposes)
    if isinstance(expose, Mapping):
        rules = {peer: _exposures(what) for peer, what in expose.items()}
        allowed = Allowance(rules.pop(EVERYBODY, frozenset()), rules)
    else:
        allowed = Allowance(_exposures(expose))
    missing = strategy.exposes - allowed.anybody
    if missing:
        raise ConfigError(
            f"{strategy.name} shows {listed(strategy.exposes)}, but only {listed(allowed.anybody)} is allowed: "
            f"allow {listed(missing)} too, or choose another strategy"
        )
    if Exposure.HISTOGRAM in allowed.anybody - allowed.everybody:
        raise ConfigError(
            f"{Exposure.HISTOGRAM} stands in the card, which all see: allow it to everybody ({EVERYBODY!r}), or nobody"
        )
    return allowed


def _exposures(items: Iterable[Exposure | str]) -> frozenset[Exposure]:
    try:
        return frozenset(Exposure(item) for item in items)
    except ValueError as exc:
        raise ConfigError(f"{exc}; exposures are: {listed(frozenset(Exposure))}") from exc


def _wanted(learn_from: Iterable[str]) -> tuple[str, ...]:
    if isinstance(learn_from, str):
        raise ConfigError(f"learn_from is a list of names or ids, not one text: write [{learn_from!r}]")
    return tuple(learn_from)
