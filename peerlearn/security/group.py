"""A group: which peers may join, decided by a small private authority. A holder of its key, in the group file, is in.

A member's file holds a certificate instead of the key: it is in until that expires or is revoked, and lets nobody in.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from peerlearn.errors import GroupError
from peerlearn.security import authority, groupfile
from peerlearn.security.credential import NAME_CHARS, Credential, Issued
from peerlearn.security.keyfile import read_private, write_private
from peerlearn.text import is_name

DAY = 86_400.0
AUTHORITY_DAYS = 5 * 365


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Group:
    """`authorities[0]` is the group's own; the others are older ones, still trusted until a rotation's overlap ends.

    `links` are the other way round: older ones vouch for ours, for members who have not heard of it.
    """

    name: str
    id: str
    """32 hex digits, the same through all rotations."""
    authorities: tuple[x509.Certificate, ...]
    links: tuple[x509.Certificate, ...] = ()
    key: EllipticCurvePrivateKey | None = None
    """Of the authority; None in a member's file."""
    member: Credential | None = None
    """In a member's file."""
    issued: tuple[Issued, ...] = ()
    path: Path | None = None
    """Of the file that it is kept in."""
    lifetime: float = field(default=DAY)
    """Seconds that the certificates hold which peers mint for themselves."""

    # ---------------------------------------------------------------- the file

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Raises GroupError, with the fix, for every file that cannot be used as it is."""
        path = Path(path)
        group = cls(**groupfile.parse(read_private(path), path), path=path)
        group.check(time.time())
        return group

    def save(self, path: Path, *, replace: bool = False) -> None:
        """Atomically, for this user alone. Raises GroupError."""
        write_private(path, _rendered(self), replace=replace)

    def check(self, now: float) -> None:
        """Raises GroupError when nothing can be done with this group at this time."""
        where = self.path or "the group"
        own, member = self.authorities[0], self.member
        if now < own.not_valid_before_utc.timestamp():
            raise GroupError(f"{where} is not valid yet: this machine's clock is behind; timedatectl set-ntp true")
        if now > own.not_valid_after_utc.timestamp():
            raise GroupError(f"{where} has expired: make a new one by peerlearn group new, and give it to all members")
        if member is not None and not member.since <= now <= member.until:
            raise GroupError(
                f"the certificate in {where} has expired: ask for a new one, made by peerlearn group issue"
            )

    # ---------------------------------------------------------------- what a holder of the key does

    @classmethod
    def new(cls, name: str, *, days: float = AUTHORITY_DAYS) -> Self:
        """Raises GroupError for a name that would spoil a line."""
        if not is_name(name, NAME_CHARS):
            raise GroupError(f"a group's name is 1 to {NAME_CHARS} printable characters, not {name[:80]!r}")
        key, now, id = authority.new_key(), time.time(), secrets.token_hex(16)
        certificate = authority.root(key, _label(id), now=now, until=now + days * DAY)
        return cls(name=name, id=id, authorities=(certificate,), key=key)

    def mint(self, *, until: float) -> Credential:
        """A certificate for one peer. Raises GroupError without the key."""
        key, now = authority.new_key(), time.time()
        certificate = authority.mint(self.signer, self.authorities[0], key.public_key(), now=now, until=until)
        return Credential(key, certificate, _still(self.links, now))

    def issue(self, name: str, *, days: float) -> tuple[Self, Self]:
        """This group with the certificate entered in its list, and the group as the member's file is to hold it."""
        made = self.mint(until=time.time() + days * DAY)
        entry = Issued(name, made.fingerprint, made.until)
        member = replace(self, key=None, member=made, links=(), issued=(), path=None)
        return replace(self, issued=(*self.issued, entry)), member

    def rotate(self, *, days: float, overlap_days: float) -> Self:
        """The same group with a new authority. The old one is believed for the overlap; 0: from now on no more."""
        now, own = time.time(), self.authorities[0]
        key, end = authority.new_key(), time.time() + overlap_days * DAY
        certificate = authority.root(key, _label(self.id), now=now, until=now + days * DAY)
        older: list[x509.Certificate] = []
        links: tuple[x509.Certificate, ...] = ()
        if overlap_days > 0:
            limits = [min(end, old.not_valid_after_utc.timestamp()) for old in self.authorities]
            older = [
                authority.bridge(old, key, certificate, now=now, until=until)
                for old, until in zip(self.authorities, limits, strict=True)
                if until > now
            ]
            link = authority.bridge(certificate, self.signer, own, now=now, until=limits[0])
            links = (link, *_still(self.links, now))
        return replace(self, authorities=(certificate, *older), links=links, key=key)

    @property
    def signer(self) -> EllipticCurvePrivateKey:
        """The group's private key. Raises GroupError when this file is a member's, which does not hold it."""
        if self.key is None:
            raise GroupError(
                f"{self.path or 'this file'} is a member's: it does not hold the group's key; "
                "do this where the group was made"
            )
        return self.key

    # ---------------------------------------------------------------- whom it believes

    @property
    def hash(self) -> str:
        """What an outsider may see of the group."""
        return hash_of(self.id)

    def credential(self) -> Credential:
        """What a peer of this group shows: its own short-lived certificate, or that of the member's file."""
        return self.member if self.member is not None else self.mint(until=time.time() + self.lifetime)

    def trusted(self, now: float) -> tuple[x509.Certificate, ...]:
        """The authorities that count at this time."""
        return _still(self.authorities, now)

    def until(self, chain: Sequence[bytes], now: float) -> float | None:
        """Until when a peer's certificate (DER, the first) makes it one of us; None: it does not, or no more."""
        try:
            certificates = [authority.read(each) for each in chain[:8]]
        except ValueError:
            return None
        end = authority.verified(certificates, self.trusted(now), now) if certificates else None
        return end.timestamp() if end is not None else None


def hash_of(group: str, tag: str = "") -> str:
    """16 hex digits; only who knows group and tag recognises them."""
    text = f"peerlearn group {tag}" if not group else f"peerlearn group {group}/{tag}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _still(certificates: Sequence[x509.Certificate], now: float) -> tuple[x509.Certificate, ...]:
    return tuple(certificate for certificate in certificates if authority.valid(certificate, now))


def _label(id: str) -> str:
    return f"peerlearn {hash_of(id)} {secrets.token_hex(4)}"


def _rendered(group: Group) -> bytes:
    """The content of the group file: JSON."""
    member = group.member
    content: dict[str, Any] = {
        "peerlearn": "group key: keep it secret" if group.key is not None else "group member: keep it secret",
        "format": groupfile.FORMAT,
        "name": group.name,
        "id": group.id,
        "authorities": [authority.pem(certificate).decode() for certificate in group.authorities],
        "links": [authority.pem(certificate).decode() for certificate in group.links],
    }
    if group.key is not None:
        content["key"] = authority.key_pem(group.key).decode()
        content["issued"] = [
            {"name": each.name, "fingerprint": each.fingerprint.hex(), "until": each.until} for each in group.issued
        ]
    if member is not None:
        chain = (member.certificate, *member.links)
        content["member"] = {
            "chain": [authority.pem(certificate).decode() for certificate in chain],
            "key": authority.key_pem(member.key).decode(),
        }
    return (json.dumps(content, indent=1) + "\n").encode()
