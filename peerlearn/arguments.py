"""What a Peer is given, checked and completed before anything is opened."""

import secrets
from collections.abc import Callable, Iterable

from peerlearn.discovery.interfaces import is_loopback
from peerlearn.errors import ConfigError
from peerlearn.learning.learner import Learner
from peerlearn.strategies.base import Strategy
from peerlearn.types import Address, Card, Exposure, PeerId
from peerlearn.version import __version__

NAME_CHARS = 64


def name_of(name: str) -> str:
    """The name given, or one made up. Raises ConfigError for one that would spoil a table."""
    if len(name) > NAME_CHARS or not name.isprintable():
        raise ConfigError(f"a peer's name is at most {NAME_CHARS} printable characters, not {name[:80]!r}")
    return name or f"peer-{secrets.token_hex(3)}"


def listen_address(listen: Address | str | None, *, insecure: bool) -> Address:
    """Loopback unless told otherwise; beyond loopback only with `insecure`. Fails closed with ConfigError."""
    if listen is None:
        return Address("0.0.0.0" if insecure else "127.0.0.1", 0)
    address = listen if isinstance(listen, Address) else Address.parse(listen, default_port=0)
    if not insecure and not is_loopback(address.host):
        raise ConfigError(
            f"listening on {address} would let everybody on the network in, unencrypted: "
            "add --insecure (insecure=True) if that is what you want, or listen on 127.0.0.1"
        )
    return address


def exposures(strategy: Strategy, expose: Iterable[Exposure | str] | None) -> frozenset[Exposure]:
    """What this peer may show: just what its strategy shows, or the allow-list given, which must cover that."""
    if expose is None:
        return strategy.exposes
    try:
        allowed = frozenset(Exposure(item) for item in expose)
    except ValueError as exc:
        raise ConfigError(f"{exc}; exposures are: {_listed(frozenset(Exposure))}") from exc
    missing = strategy.exposes - allowed
    if missing:
        raise ConfigError(
            f"{strategy.name} shows {_listed(strategy.exposes)}, but only {_listed(allowed)} is allowed: "
            f"allow {_listed(missing)} too, or choose another strategy"
        )
    return allowed


def links(learn_from: Iterable[str] | None) -> Callable[[Card], bool]:
    """Whether a provider is one that was named, by name or start of id (at least 6 digits); everybody when None."""
    if learn_from is None:
        return lambda card: True
    wanted = tuple(learn_from)
    return lambda card: any(card.name == w or (len(w) >= 6 and card.id.startswith(w)) for w in wanted)


def first_card(
    learner: Learner, strategy: Strategy, *, id: PeerId, name: str, group_tag: str, exposes: frozenset[Exposure]
) -> Card:
    """The card of a peer that has just started; class counts only when they are exposed."""
    facts = learner.describe()
    return Card(
        id=id,
        name=name,
        session=secrets.token_hex(8),
        group_tag=group_tag,
        software=f"peerlearn {__version__}",
        task=facts.task,
        classes=facts.classes,
        histogram=facts.histogram if Exposure.HISTOGRAM in exposes else (),
        architecture=facts.architecture,
        start=facts.start,
        layers=facts.layers,
        strategy=strategy.name,
        exposes=exposes,
        public_sets=facts.public_sets,
    )


def _listed(items: frozenset[Exposure]) -> str:
    return ", ".join(sorted(items)) or "nothing"
