"""Cards for people and for programs: a row of the table, a page in full, a JSON object."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from peerlearn.cli.output import plain, ranges
from peerlearn.types import Card, Exposure

if TYPE_CHECKING:
    from peerlearn.directory import Contact

SHORT = 8
"""Hex digits of an id that people need to tell peers apart."""

WIDE = 130
"""Columns from which on the table fits."""

SHOWS = {
    Exposure.HISTOGRAM: "how many labelled samples it has of each class",
    Exposure.PARAMS_FULL: "all weights of its model",
    Exposure.PARAMS_LAYERS: "the weights of named layers",
    Exposure.PARAMS_SIGNIFICANT: "the weights that matter most for named classes",
    Exposure.PRIVATE_FEATURES: "features of its private samples",
    Exposure.PRIVATE_LOGITS: "logits on its private samples",
    Exposure.PRIVATE_LABELS: "labels of its private samples",
    Exposure.PUBLIC_OUTPUTS: "outputs on a public data set",
}


def in_short(contact: "Contact", everybody: Sequence["Contact"]) -> dict[str, Any]:
    card = contact.card
    return {
        "name": card.name,
        "id": card.id,
        "address": str(contact.address),
        "status": str(contact.status),
        "architecture": card.architecture,
        "layers": len(card.layers),
        "classes": card.classes,
        "classes_seen": _seen(card),
        "strategy": card.strategy,
        "exposes": sorted(card.exposes),
        "version": contact.version,
        "learns_from": _teachers(card, everybody),
    }


def in_full(contact: "Contact", everybody: Sequence["Contact"]) -> dict[str, Any]:
    card = asdict(contact.card)
    card["addresses"] = [str(address) for address in contact.card.addresses]
    card["certificate_sha256"] = contact.card.certificate_sha256.hex()
    card["exposes"] = sorted(contact.card.exposes)
    return {**card, **in_short(contact, everybody), "layers": card["layers"]}


def listing(contacts: Sequence["Contact"], width: int) -> RenderableType:
    """A row per peer; where the terminal is too narrow for that, three lines per peer."""
    return _table(contacts) if width >= WIDE else Group(*(_block(contact, contacts) for contact in contacts))


def _table(contacts: Sequence["Contact"]) -> Table:
    made = Table(box=None, pad_edge=False)
    for title in ("name", "id", "address", "model", "classes", "strategy", "exposes", "version", "status"):
        made.add_column(title, justify="right" if title == "version" else "left", overflow="fold")
    made.add_column("learns from", overflow="fold")
    for contact in contacts:
        card = contact.card
        cells = (card.name, card.id[:SHORT], str(contact.address), _model(card), _classes(card), card.strategy)
        more = (_exposes(card), str(contact.version), str(contact.status), _taught(card, contacts))
        made.add_row(*map(plain, cells + more))
    return made


def _block(contact: "Contact", everybody: Sequence["Contact"]) -> Text:
    card = contact.card
    head = f"{card.name}  {card.id[:SHORT]}  {contact.address}  {contact.status}, version {contact.version}"
    what = f"    {_model(card)}; classes {_classes(card)}; {card.strategy}, learns from {_taught(card, everybody)}"
    return Text("\n").join([plain(head), plain(what), plain(f"    exposes {_exposes(card)}")])


def page(contact: "Contact", everybody: Sequence["Contact"]) -> Group:
    """Everything that the card says."""
    card = contact.card
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for title, text in _facts(contact, everybody).items():
        facts.add_row(title, plain(text))
    layers = Table(title="layers", box=None, pad_edge=False, title_justify="left")
    for heading in ("name", "kind", "shape"):
        layers.add_column(heading)
    for layer in card.layers:
        layers.add_row(plain(layer.name), plain(layer.kind), " x ".join(map(str, layer.shape)))
    return Group(facts, layers)


def _facts(contact: "Contact", everybody: Sequence["Contact"]) -> Mapping[str, str]:
    card = contact.card
    shows = [f"{exposure} ({SHOWS[exposure]})" for exposure in sorted(card.exposes)]
    public = [f"{s.name} ({s.length} samples, {s.fingerprint[:SHORT]})" for s in card.public_sets]
    return {
        "name": card.name,
        "id": card.id,
        "address": str(contact.address),
        "listens on": ", ".join(map(str, card.addresses)),
        "status": str(contact.status),
        "session": card.session,
        "software": card.software,
        "protocol": ".".join(map(str, card.protocol)),
        "group tag": card.group_tag or "none",
        "task": card.task or "not named",
        "classes": _classes(card),
        "samples": ", ".join(f"{c}: {n}" for c, n in enumerate(card.histogram) if n) or "not shown",
        "architecture": card.architecture,
        "started from": card.start,
        "strategy": card.strategy,
        "exposes": ", ".join(shows) or "nothing",
        "public sets": ", ".join(public) or "none",
        "version": str(contact.version),
        "learns from": _taught(card, everybody),
        "metrics": ", ".join(f"{name} {value:.4g}" for name, value in card.metrics.items()) or "none",
        "TLS": card.certificate_sha256.hex() or "none: plain gRPC",
    }


def _model(card: Card) -> str:
    return f"{len(card.layers)} layers, {card.architecture[:SHORT]}"


def _seen(card: Card) -> list[int] | None:
    """Classes with samples; None when the card does not show them."""
    return [c for c, n in enumerate(card.histogram) if n] if card.histogram else None


def _classes(card: Card) -> str:
    seen = _seen(card)
    return f"of {card.classes}" if seen is None else f"{ranges(seen) or 'none'} of {card.classes}"


def _teachers(card: Card, everybody: Sequence["Contact"]) -> list[str]:
    names = {contact.id: contact.name for contact in everybody}
    return [names.get(peer, peer[:SHORT]) for peer in card.learns_from]


def _taught(card: Card, everybody: Sequence["Contact"]) -> str:
    return ", ".join(_teachers(card, everybody)) or "nobody"


def _exposes(card: Card) -> str:
    return ", ".join(sorted(card.exposes)) or "nothing"
