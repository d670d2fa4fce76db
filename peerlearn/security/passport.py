"""What a peer of a group shows, whom it believes, and whom it no longer does: kept up to date while it runs."""

import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from peerlearn.config import Limits
from peerlearn.errors import GroupError, PeerRefused, RefusalReason
from peerlearn.security import authority, revocation
from peerlearn.security.authority import fingerprint_of
from peerlearn.security.credential import Credential
from peerlearn.security.group import Group
from peerlearn.security.revocation import Revocations
from peerlearn.wire.v1 import fabric_pb2 as pb

log = logging.getLogger("peerlearn")

_REMEMBERED = 1024
_RENEW_AT = 2 / 3
"""Of a certificate's life, after which the next one is minted."""
_AGAIN = 60.0
"""Seconds until a group file that could not be read is tried again."""

Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class News:
    """What has changed since one last looked."""

    renewed: bool = False
    revoked: bool = False


class Passport:
    """For one peer, on one event loop: makes and judges certificates; see `transport.base.Credentials` and `Guard`.

    With a group that was read from a file, that file and the list of revocations beside it are looked at again by
    `refresh`, so that a rotation or a revocation on this machine needs no restart.
    """

    def __init__(self, group: Group, *, limits: Limits | None = None) -> None:
        """Raises GroupError when the group cannot be used now."""
        group.check(time.time())
        self._limits = limits or Limits()
        self._group = group
        self._list_path = revocation.path_of(group.path) if group.path is not None else None
        self._stamps = self._look()
        self._revocations = revocation.load(self._list_path, group) if self._list_path is not None else Revocations()
        self._hold(group.credential())
        self._judged: OrderedDict[bytes, float] = OrderedDict()
        self._shut: OrderedDict[bytes, None] = OrderedDict()
        self._not_before = 0.0
        if self.fingerprint in self._revocations.certificates:
            raise GroupError(f"the certificate in {group.path} is revoked: ask for a new one, or leave the group")

    # ---------------------------------------------------------------- what it shows

    @property
    def group(self) -> Group:
        return self._group

    @property
    def server_name(self) -> str:
        return authority.SERVER_NAME

    @property
    def authority(self) -> bytes:
        """PEM of all that are trusted now."""
        return b"".join(map(authority.pem, self._group.trusted(time.time())))

    @property
    def certificate(self) -> bytes:
        """PEM, with the links to older authorities."""
        return b"".join(map(authority.pem, (self._held.certificate, *self._held.links)))

    @property
    def key(self) -> bytes:
        return authority.key_pem(self._held.key)

    @property
    def chain(self) -> tuple[bytes, ...]:
        return self._held.chain

    @property
    def fingerprint(self) -> bytes:
        return self._held.fingerprint

    # ---------------------------------------------------------------- whom it believes

    def check(self, chain: Sequence[bytes], who: str) -> None:
        """Raises PeerRefused, REVOKED or GROUP, unless the certificate (DER, the first) is one of us now."""
        fingerprint = fingerprint_of(chain[0]) if chain else b""
        if fingerprint in self._revocations.certificates or fingerprint in self._shut:
            raise PeerRefused(who, RefusalReason.REVOKED, "this group has revoked that certificate")
        until = self._until(fingerprint, chain)
        if until is None:
            raise PeerRefused(who, RefusalReason.GROUP, "the certificate is not of this group, or its time is not now")
        if until < time.time():
            raise PeerRefused(who, RefusalReason.GROUP, "the certificate has expired")

    def check_peer(self, peer: str, who: str) -> None:
        """Raises PeerRefused(REVOKED) for a peer that the group has shut out by its id."""
        if peer in self._revocations.peers:
            raise PeerRefused(who, RefusalReason.REVOKED, f"this group has revoked the peer {peer[:12]}")

    def shut(self, fingerprints: Iterable[bytes]) -> None:
        """Take these for revoked: they are those of a peer that is revoked by its id."""
        for fingerprint in fingerprints:
            self._shut[fingerprint] = None
            if len(self._shut) > _REMEMBERED:
                self._shut.popitem(last=False)

    def _until(self, fingerprint: bytes, chain: Sequence[bytes]) -> float | None:
        """Only what is good is remembered: a chain that lacks a link is no reason to refuse the whole one."""
        known = self._judged.get(fingerprint)
        if known is None:
            known = self._group.until(chain, time.time())
            if known is not None:
                self._judged[fingerprint] = known
            if len(self._judged) > _REMEMBERED:
                self._judged.popitem(last=False)
        return known

    # ---------------------------------------------------------------- what changes

    @property
    def revocations(self) -> Revocations:
        return self._revocations

    def learn(self, signed: pb.SignedRevocations) -> bool:
        """Take a list that came from another peer, if it is newer; whether it was. Raises Corrupt or Oversized."""
        revocation.check_size(signed, self._limits)
        held = self._revocations.signed
        if held is not None and held.list == signed.list:
            return False
        heard = revocation.open_revocations(signed, self._group, self._limits)
        if heard.serial <= self._revocations.serial:
            return False
        self._adopt(heard)
        if self._list_path is not None:
            try:
                revocation.save(heard, self._list_path)
                self._stamps = self._look()
            except GroupError as exc:
                log.warning("revocations are known until this peer stops, and then forgotten: %s", exc)
        return True

    def _adopt(self, heard: Revocations) -> None:
        self._revocations = heard
        if self.fingerprint in heard.certificates:
            log.error("the group has revoked this peer's certificate: nobody of it will speak to this peer any more")

    def refresh(self) -> News:
        """Once a beat: look at the files again, and renew what this peer shows before it expires."""
        news = self._reread()
        if self._group.member is None and self._ripe():
            self._hold(self._group.credential())
            news = replace(news, renewed=True)
        return news

    def _hold(self, credential: Credential) -> None:
        self._held, self._since = credential, time.time()

    def _ripe(self) -> bool:
        now, until = time.time(), self._held.until
        if now < self._since:  # the clock was set back: what it made may not be valid yet
            return True
        end = self._group.authorities[0].not_valid_after_utc.timestamp()
        return now > self._since + _RENEW_AT * (until - self._since) and until < end

    def _reread(self) -> News:
        if self._list_path is None or time.monotonic() < self._not_before:
            return News()
        stamps = self._look()
        if stamps == self._stamps:
            return News()
        try:
            news = self._take(self._list_path)
        except GroupError as exc:
            self._not_before = time.monotonic() + _AGAIN
            log.warning("going on with the group as it was: %s", exc)
            return News()
        self._stamps = stamps
        return news

    def _take(self, list_path: Path) -> News:
        """What the files hold now. Raises GroupError when they cannot be used, with nothing changed."""
        before = self._group
        group = replace(Group.load(before.path or list_path), lifetime=before.lifetime)
        if group.id != before.id:
            raise GroupError(f"{group.path} is another group's now: restore it, or restart this peer to change groups")
        kept = revocation.load(list_path, group)
        newer = kept.serial > self._revocations.serial
        if newer:
            self._adopt(kept)
        rotated = (group.authorities, group.links) != (before.authorities, before.links)
        reissued = group.member is not None and group.member.fingerprint != self.fingerprint
        self._group = group
        if rotated:
            self._judged.clear()
        if rotated or reissued:
            self._hold(group.credential())
        return News(renewed=rotated or reissued, revoked=newer or rotated)

    def _look(self) -> tuple[Stamp | None, ...]:
        group = self._group.path
        return tuple(_stamp(path) for path in (group, self._list_path) if path is not None)


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
