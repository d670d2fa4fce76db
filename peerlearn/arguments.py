"""What a Peer is given, checked and completed before anything is opened."""

import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from peerlearn.discovery.interfaces import is_loopback
from peerlearn.errors import ConfigError
from peerlearn.learning.learner import Learner
from peerlearn.orchestrator.exposure import EVERYBODY, Allowance
from peerlearn.security.group import Group
from peerlearn.strategies.base import Strategy
from peerlearn.types import Address, Card, Exposure, PeerId
from peerlearn.version import __version__

NAME_CHARS = 64

Expose = Iterable[Exposure | str] | Mapping[str, Iterable[Exposure | str]]
"""What may be shown: to everybody; or by peer, by its id (in full) or name, and "*" for all others."""


def name_of(name: str) -> str:
    """The name given, or one made up. Raises ConfigError for one that would spoil a table."""
    if len(name) > NAME_CHARS or not name.isprintable():
        raise ConfigError(f"a peer's name is at most {NAME_CHARS} printable characters, not {name[:80]!r}")
    return name or f"peer-{secrets.token_hex(3)}"


def positive(seconds: float, what: str) -> float:
    """Raises ConfigError."""
    if not seconds > 0:
        raise ConfigError(f"{what} must be a positive number of seconds, not {seconds}")
    return seconds


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

    Class counts stand in the card, which is the same for all: they are shown to everybody or to nobody.
    """
    if expose is None:
        return Allowance(strategy.exposes)
    if isinstance(expose, Mapping):
        rules = {who: _exposures(what) for who, what in expose.items()}
        allowed = Allowance(rules.pop(EVERYBODY, frozenset()), rules)
    else:
        allowed = Allowance(_exposures(expose))
    missing = strategy.exposes - allowed.anybody
    if missing:
        raise ConfigError(
            f"{strategy.name} shows {_listed(strategy.exposes)}, but only {_listed(allowed.anybody)} is allowed: "
            f"allow {_listed(missing)} too, or choose another strategy"
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
        raise ConfigError(f"{exc}; exposures are: {_listed(frozenset(Exposure))}") from exc


def links(learn_from: Iterable[str] | None) -> Callable[[Card], bool]:
    """Whether a provider is one that was named, by name or start of id (at least 6 digits); everybody when None."""
    if learn_from is None:
        return lambda card: True
    wanted = tuple(learn_from)
    return lambda card: any(card.name == w or (len(w) >= 6 and card.id.startswith(w)) for w in wanted)


def first_card(
    learner: Learner,
    strategy: Strategy,
    *,
    id: PeerId,
    name: str,
    group_tag: str,
    exposes: frozenset[Exposure],
    session: str = "",
) -> Card:
    """The card of a peer that has just started; class counts only when they are exposed. `session`: random unless
    given."""
    facts = learner.describe()
    return Card(
        id=id,
        name=name,
        session=session or secrets.token_hex(8),
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
