"""Problems: why an address does not lead to a peer, recorded once, in a sentence that says what to do."""

from collections.abc import Iterator

from peerlearn.directory import Lead
from peerlearn.errors import PeerRefused, PeerUnreachable, RefusalReason, TransferError, WireError
from peerlearn.events import PeerChanged, Record


class Problems:
    """Problems with addresses that the user gave are kept until they are solved. Refusals at other addresses are only
    recorded as events. Iterates over the kept sentences."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._sentences: dict[str, str] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._sentences.values())

    def keep(self, about: str, sentence: str) -> None:
        """Keep a problem that concerns no single address. `about`: its key; a new sentence replaces the old one."""
        self._note(about, "problem", sentence)

    def of_lead(self, lead: Lead, exc: TransferError | WireError) -> str:
        """Note why a lead has led to no peer, and return the sentence. It is kept only if the user gave the lead."""
        sentence = _sentence(lead, exc)
        status = "unreachable" if isinstance(exc, PeerUnreachable) else "refused"
        if lead.told:
            self._note(str(lead), status, sentence)
        return sentence

    def refused(self, lead: Lead, exc: PeerRefused, why: str) -> None:
        """Record a refusal by a peer at an address that the user did not give. The caller does so once per lead."""
        self._record(PeerChanged(peer=lead.id_prefix, name=exc.peer, status="refused", address=str(lead), why=why))

    def solved(self, lead: Lead) -> None:
        """Drop the problem of this lead: it has led to a peer."""
        self._sentences.pop(str(lead), None)

    def _note(self, about: str, status: str, sentence: str) -> None:
        if self._sentences.get(about) != sentence:
            self._sentences[about] = sentence
            self._record(PeerChanged(peer="", name=about, status=status, address=about, why=sentence))


def _sentence(lead: Lead, exc: TransferError | WireError) -> str:
    if isinstance(exc, PeerUnreachable):
        return (
            f"nobody answers at {lead} ({exc.detail}): start the peer there, let it listen on this network "
            "(not on loopback only), and open its port; trying on"
        )
    if not isinstance(exc, PeerRefused):
        return f"what answers at {lead} is not a peer of this fabric ({exc}): check host and port"
    match exc.reason:
        case RefusalReason.GROUP:
            return (
                f"the peer at {lead} is of another group ({exc.said}): start both with the same --group and --group-tag"
            )
        case RefusalReason.REVOKED:
            return f"the group has shut out the peer at {lead}, or this one ({exc.said}): ask who made the group"
        case RefusalReason.PROTOCOL:
            return f"the peer at {lead} speaks another protocol ({exc.said}): run the same release of peerlearn on both"
        case RefusalReason.IDENTITY:
            return f"there is a doubt about an identity at {lead} ({exc.said}): give every peer its own state directory"
        case _:
            return f"the peer at {lead} refuses ({exc.reason}: {exc.said}); trying on"
