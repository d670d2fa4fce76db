"""What a Peer is given: three groups of arguments, checked and completed before anything is opened."""

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

ID_START = 6
"""Digits of an id that name a peer: with 6 of them, two of a thousand peers agree by chance in 3 networks of 100."""

Expose = Iterable[Exposure | str] | Mapping[str, Iterable[Exposure | str]]
"""What may be shown: to every peer; or by peer, by its id (in full) or name, and "*" for all others."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """Where a peer listens, how it finds others, and how it waits for them.

    Raises ConfigError for arguments that cannot work together, GroupError when the group file cannot be used.
    """

    listen: Address | str | None = None
    """HOST:PORT. None: a free port on loopback, or on all interfaces with `group` or `insecure`."""
    peers: Iterable[Address | str] = ()
    """Addresses of other peers, HOST:PORT, beside those that mDNS finds."""
    group: Group | Path | str | None = None
    """The group, or its file: only its members are let in, by mutual TLS, and the peer listens on the LAN."""
    insecure: bool = False
    """Listen on the LAN without encryption and without the authentication of a group."""
    group_tag: str = ""
    """Only peers with the same tag take notice of each other."""
    timing: Timing = field(default_factory=Timing)
    """Beats, deadlines and pauses."""
    limits: Limits = field(default_factory=Limits)
    """Bounds on what others may send and hold."""

    def __post_init__(self) -> None:
        group = group_of(self.group)
        peers = tuple(each if isinstance(each, Address) else Address.parse(each) for each in self.peers)
        object.__setattr__(self, "group", group)
        object.__setattr__(self, "peers", peers)
        object.__setattr__(self, "listen", listen_address(self.listen, insecure=self.insecure, group=group is not None))

    @property
    def address(self) -> Address:
        """`listen`, parsed and completed."""
        assert isinstance(self.listen, Address)
        return self.listen

    @property
    def membership(self) -> Group | None:
        """`group`, read from its file."""
        assert self.group is None or isinstance(self.group, Group)
        return self.group

    @property
    def addresses(self) -> tuple[Address, ...]:
        """`peers`, parsed."""
        return tuple(each for each in self.peers if isinstance(each, Address))


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What a peer shows to others, and from which of them it learns."""

    expose: Expose | None = None
    """What may be shown; must cover what the strategy shows. None: just that. A mapping says it by peer: its id or
    name, "*" for all others."""
    learn_from: Iterable[str] | None = None
    """Names or ids of the providers wanted. None: every provider that fits."""
    most_providers: int | None = None
    """How many of them to ask at most in one exchange, the most promising first. None: all."""
    cast: str = ""
    """What may be lost on the way to this peer, for a slow network: "" nothing, "bfloat16", "float16", "int8", or
    "topk:0.01": of what is held of a provider, the share of values that have changed most is brought up to date at each
    exchange. A strategy that asks for a cast itself gets its own."""

    def __post_init__(self) -> None:
        check_cast(self.cast)
        if self.most_providers is not None and self.most_providers < 1:
            raise ConfigError(f"most_providers must be at least 1, not {self.most_providers}; None asks all")
        if self.learn_from is not None:
            object.__setattr__(self, "learn_from", _wanted(self.learn_from))

    def wants(self, provider: Card) -> bool:
        """Whether this provider is one that `learn_from` names, by name or by the start of its id."""
        if self.learn_from is None:
            return True
        return any(
            provider.name == named or (len(named) >= ID_START and provider.id.startswith(named))
            for named in self.learn_from
        )


@dataclass(frozen=True, kw_only=True)
class Internals:
    """Parts of a peer to replace: for tests, simulation and special networks."""

    identity: Identity | None = None
    """None: the key of the state directory, or one for this run only."""
    transport: Transport | None = None
    """None: gRPC."""
    discovery: Sequence[Discovery] | None = None
    """None: mDNS."""
    compute: Callable[[str], Compute] | None = None
    """Makes where the "learner" and the "answers" compute. None: a thread for each."""
    store: Callable[[Learner, Strategy], Store] | None = None
    """Makes where checkpoints are kept. None: the state directory."""
    session: str = ""
    """16 hex digits that tell one run of a peer from the next. Empty: random."""
    save_every: float = SAVE_EVERY
    """Seconds of a long local span that a crash may cost; snapshots, and spans of more than a second, are saved when
    they end."""

    def __post_init__(self) -> None:
        if not self.save_every > 0:
            raise ConfigError(f"save_every must be a positive number of seconds, not {self.save_every}")


def name_of(name: str) -> str:
    """The name given, or one made up. Raises ConfigError for one that would spoil a table."""
    if len(name) > NAME_CHARS or not name.isprintable():
        raise ConfigError(f"a peer's name is at most {NAME_CHARS} printable characters, not {name[:80]!r}")
    return name or f"peer-{secrets.token_hex(3)}"


def listen_address(listen: Address | str | None, *, insecure: bool, group: bool = False) -> Address:
    """Loopback unless told otherwise; beyond loopback only with a group, or with `insecure`. Fails closed with
    ConfigError."""
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
    """The group, read when it is a path. Raises GroupError; an empty path is none (ConfigError), not no group."""
    if group is None or isinstance(group, Group):
        return group
    if not str(group).strip():
        raise ConfigError("the name of the group file is empty: name one, or leave the group out")
    return Group.load(group)


def allowance(strategy: Strategy, expose: Expose | None) -> Allowance:
    """What this peer may show to whom: just what its strategy shows, or the allow-list given, which must cover that.

    Class counts stand in the card, which is the same for all peers: they are shown to all or to none. Raises
    ConfigError.
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
