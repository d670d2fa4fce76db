"""Whom a group has shut out: a list signed by the group's key. The highest serial counts; nothing is taken off it."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from google.protobuf.message import DecodeError

from peerlearn.config import Limits
from peerlearn.errors import Corrupt, GroupError, Oversized
from peerlearn.security import authority
from peerlearn.security.group import Group
from peerlearn.security.keyfile import MOST_BYTES, write_private
from peerlearn.wire.cards import is_peer_id
from peerlearn.wire.v1 import fabric_pb2 as pb

_LINKS_MOST = 16
_LINK_BYTES = 2048
_SIGNATURE_BYTES = 128
_FINGERPRINT_BYTES = 32


@dataclass(frozen=True, slots=True)
class Revocations:
    """`signed` is the list as it travels; None for the empty one, which is not signed."""

    serial: int = 0
    certificates: frozenset[bytes] = frozenset()
    """SHA-256 of each."""
    peers: frozenset[str] = frozenset()
    signed: pb.SignedRevocations | None = None

    def also(self, group: Group, *, certificates: Iterable[bytes] = (), peers: Iterable[str] = ()) -> "Revocations":
        """This list with more on it, signed. Raises GroupError without the group's key."""
        made = replace(
            self,
            # Rises with time too, so that of two lists made from copies of a group file the later one counts.
            serial=max(self.serial + 1, int(1000 * time.time())),
            certificates=self.certificates | set(certificates),
            peers=self.peers | set(peers),
        )
        return replace(made, signed=_sign(made, group))

    def again(self, group: Group) -> "Revocations":
        """The same list by the group's present key: after a rotation."""
        return self.also(group) if self.signed is not None else self


def open_revocations(signed: pb.SignedRevocations, group: Group, limits: Limits) -> Revocations:
    """The list inside, believed: its signature first. Raises Corrupt or Oversized."""
    check_size(signed, limits)
    links = _links(signed.links)
    keys = authority.keys_trusted(group.trusted(time.time()), links, time.time())
    if not any(_verifies(key, signed) for key in keys):
        raise Corrupt("a list of revocations that is not signed by the group")
    return _parse(signed, group)


def check_size(signed: pb.SignedRevocations, limits: Limits) -> None:
    """Raises Oversized or Corrupt before anything is parsed."""
    if len(signed.list) > limits.revocation_bytes:
        raise Oversized(
            f"a list of revocations of {len(signed.list)} bytes; at most {limits.revocation_bytes} are taken"
        )
    if len(signed.links) > _LINKS_MOST or any(len(link) > _LINK_BYTES for link in signed.links):
        raise Oversized("a list of revocations with more links than a group has")
    if not 0 < len(signed.signature) <= _SIGNATURE_BYTES:
        raise Corrupt("a list of revocations without a signature")


def path_of(group_file: Path) -> Path:
    """Where the newest list that is known is kept: beside the group file. It is no secret."""
    return group_file.with_name(f"{group_file.name}.revoked")


def load(path: Path, group: Group) -> Revocations:
    """The list that is kept there; the empty one when there is none. Raises GroupError, with the fix."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return Revocations()
    except OSError as exc:
        raise GroupError(f"cannot read the revocations {path}: {exc.strerror}; make it readable by this user") from exc
    try:
        return open_revocations(pb.SignedRevocations.FromString(data), group, Limits(revocation_bytes=MOST_BYTES))
    except (DecodeError, Corrupt, Oversized) as exc:
        raise GroupError(
            f"{path} is not a list of revocations of this group ({exc}): delete it when others of the group are up "
            "(they hand it over), or copy it from another member"
        ) from exc


def save(revocations: Revocations, path: Path) -> None:
    """Atomically. Raises GroupError when it cannot be written."""
    if revocations.signed is not None:
        write_private(path, revocations.signed.SerializeToString(deterministic=True), replace=True)


def _sign(made: Revocations, group: Group) -> pb.SignedRevocations:
    content = pb.Revocations(
        group=group.id, serial=made.serial, certificates=sorted(made.certificates), peers=sorted(made.peers)
    ).SerializeToString(deterministic=True)
    if len(content) > Limits().revocation_bytes:
        raise GroupError("the list of revocations is full: others would not take it; make a new group instead")
    links = [authority.der(link) for link in group.links]
    return pb.SignedRevocations(list=content, signature=group.signer.sign(content, ECDSA(SHA256())), links=links)


def _verifies(key: EllipticCurvePublicKey, signed: pb.SignedRevocations) -> bool:
    try:
        key.verify(signed.signature, signed.list, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def _links(links: Sequence[bytes]) -> list[x509.Certificate]:
    try:
        return [authority.read(link) for link in links]
    except ValueError as exc:
        raise Corrupt("a list of revocations with a link that is no certificate") from exc


def _parse(signed: pb.SignedRevocations, group: Group) -> Revocations:
    try:
        content = pb.Revocations.FromString(signed.list)
    except DecodeError as exc:
        raise Corrupt("a list of revocations that does not parse") from exc
    if content.group != group.id:
        raise Corrupt("a list of revocations of another group")
    if not all(len(each) == _FINGERPRINT_BYTES for each in content.certificates):
        raise Corrupt("a list of revocations with a fingerprint that is none")
    if not all(is_peer_id(peer) for peer in content.peers):
        raise Corrupt("a list of revocations with an id that is none")
    return Revocations(content.serial, frozenset(content.certificates), frozenset(content.peers), signed)
