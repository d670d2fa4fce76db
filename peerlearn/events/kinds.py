"""The events: one frozen class per kind of fact that a peer states while it runs. docs/events.md is made from here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A fact that a peer states. Events are read by people and tools; no peer acts on them.

    A class of one's own is an event too: give it a `kind` that no other has, and fields of str, int, float, bool,
    tuples and mappings of these. Field names of the envelope (`ENVELOPE` in lines.py) are taken.
    """

    kind: ClassVar[str]
    """The word that tells this event from others in JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening(Event):
    """A peer has its identity and begins to open. It is the first event of a run; sinks learn from it who speaks."""

    kind = "opening"
    id: str
    """Id of the peer: 32 hex digits."""
    name: str
    """Name of the peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """The peer listens, and other peers have been told of it."""

    kind = "started"
    name: str
    """Name of the peer."""
    id: str
    """Id of the peer: 32 hex digits."""
    address: str
    """Where it listens: HOST:PORT."""
    strategy: str
    """Name of its strategy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerChanged(Event):
    """The standing of another peer, or of an address that was named, has changed."""

    kind = "peer"
    peer: str
    """Id of the other peer, or the start of it; empty while only its address is known."""
    name: str
    """Name of the other peer; its address while no name is known."""
    status: str
    """Of a peer: `confirmed`, `suspect` (silent), `back`, `left` (it said goodbye), `gone` (silent for too long) or
    `moved` (it is at another address). Of an address that leads to no peer: `unreachable`, `refused` or `problem`."""
    address: str = ""
    """Where it listens: HOST:PORT."""
    why: str = ""
    """The reason, where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided(Event):
    """A decision of the peer and its reason."""

    kind = "decided"
    round: int
    """Rounds completed before."""
    why: str
    """The decision and its reason, in one line for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfit(Event):
    """A provider cannot teach this peer by its strategy. Said once per card of the provider."""

    kind = "unfit"
    provider: str
    """Name of the provider."""
    why: str
    """What does not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseStarted(Event):
    """A phase of a round begins."""

    kind = "phase"
    round: int
    """Rounds completed before."""
    phase: str
    """`local` or `transfer`."""
    providers: tuple[str, ...] = ()
    """Names of the providers whose knowledge goes into it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched(Event):
    """An answer of a provider has arrived."""

    kind = "fetched"
    round: int
    """Rounds completed before."""
    provider: str
    """Name of the provider."""
    version: int
    """Version of the provider's snapshot that the answer was made from."""
    received_bytes: int
    """Bytes of the answer, headers included."""
    sent_bytes: int
    """Bytes of the question, headers and knowledge that it brought included."""
    body_bytes: int
    """Bytes of the tensors in the answer, before compression."""
    seconds: float
    """From the question to the last byte of the answer."""
    codec: str = ""
    """How the answer was compressed; empty: not at all."""
    not_modified: bool = False
    """True: the knowledge that is held is still the latest, and none was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchFailed(Event):
    """No usable answer came from a provider."""

    kind = "fetch-failed"
    round: int
    """Rounds completed before."""
    provider: str
    """Name of the provider."""
    why: str
    """What went wrong."""
    seconds: float
    """From the question to the failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained(Event):
    """A local or a transfer span has ended."""

    kind = "trained"
    round: int
    """Rounds completed before."""
    phase: str
    """`local` or `transfer`."""
    steps: int
    """Optimiser steps made."""
    samples: int
    """Samples seen."""
    loss: float
    """Mean loss of the steps."""
    seconds: float
    """How long it took."""
    providers: tuple[str, ...] = ()
    """Names of the providers whose knowledge went into it."""
    notes: Mapping[str, float] = field(default_factory=dict)
    """What the strategy has to say about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated(Event):
    """A transfer was measured on held-out data, and kept or rolled back."""

    kind = "gated"
    round: int
    """Rounds completed before."""
    before: float
    """Score before the transfer, higher is better."""
    after: float
    """Score after the transfer."""
    kept: bool
    """False: the model is again as it was before the transfer."""
    why: str
    """The reason, in one line for people."""
    providers: tuple[str, ...] = ()
    """Names of the providers whose knowledge went into the transfer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined(Event):
    """A provider's knowledge keeps doing harm, or makes no sense: it is not used for now. The provider is told why."""

    kind = "quarantined"
    round: int
    """Rounds completed before."""
    provider: str
    """Name of the provider."""
    why: str
    """What its knowledge did."""
    until: int
    """Version that the provider must publish, unless it begins another session, before it is asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint(Event):
    """Another peer has quarantined this one, and says why."""

    kind = "complaint"
    by: str
    """Name of the other peer."""
    why: str
    """Its own words, cut to one line without control characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated(Event):
    """The model was measured."""

    kind = "evaluated"
    round: int
    """Rounds completed before."""
    phase: str
    """The phase that had just ended: `local` or `transfer`."""
    metrics: Mapping[str, float]
    """Name to value, as the function given by `Peer(measure=...)` returned them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published(Event):
    """A snapshot of the model is there for other peers to ask about."""

    kind = "published"
    round: int
    """Rounds completed before."""
    version: int
    """Version of the snapshot; it rises by 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(Event):
    """A consumer's question was answered with knowledge, or with "not modified"."""

    kind = "answered"
    consumer: str
    """Name of the consumer."""
    want: str
    """What was asked for: `params`, `outputs` or `nothing`."""
    version: int
    """Version of the snapshot that the answer was made from."""
    body_bytes: int
    """Bytes of the tensors in the answer, before compression."""
    seconds: float
    """From the question to the last byte of the answer."""
    not_modified: bool = False
    """True: the consumer holds the latest already, and nothing was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    """A question or an introduction of another peer was refused."""

    kind = "refused"
    consumer: str
    """Name or id of the other peer."""
    reason: str
    """The reason in a word, as it goes over the wire."""
    detail: str
    """The reason in a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved(Event):
    """A checkpoint was written."""

    kind = "saved"
    round: int
    """Rounds completed before."""
    path: str
    """The file."""
    seconds: float
    """How long it took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveFailed(Event):
    """No checkpoint could be written; learning and the attempts go on. Said once per reason, until a save succeeds."""

    kind = "save-failed"
    round: int
    """Rounds completed before."""
    why: str
    """What went wrong, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Event):
    """A saved run goes on."""

    kind = "resumed"
    round: int
    """Rounds completed when the checkpoint was saved."""
    version: int
    """Version of the latest snapshot then."""
    why: str = ""
    """What was wrong with a checkpoint that had to be passed over; empty: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(Event):
    """The peer begins to leave; the step under way may still end."""

    kind = "stopped"
    round: int
    """Rounds completed."""
    why: str
    """Why it left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown(Event):
    """An event that this release does not know: of a newer one, or of an app's own. It is never stated, only read."""

    kind = "unknown"
    called: str
    """Its kind."""
    fields: Mapping[str, Any]
    """Its fields, as they stand in the JSON."""


KINDS: tuple[type[Event], ...] = (
    Opening, Started, PeerChanged, Decided, Unfit, PhaseStarted, Fetched, FetchFailed, Trained, Gated, Quarantined,
    Complaint, Evaluated, Published, Answered, Refused, Saved, SaveFailed, Resumed, Stopped,
)  # fmt: skip
"""All that a peer states."""
