"""What the commands of `peerlearn group` do."""

import asyncio
import re
import time
from collections.abc import Collection, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rich.table import Table

from peerlearn.cli import choices
from peerlearn.cli.ls import Scope, observing
from peerlearn.cli.options import GROUP_VARIABLE
from peerlearn.cli.output import Output, plain
from peerlearn.errors import ConfigError, NetworkError
from peerlearn.security import authority, revocation
from peerlearn.security.credential import NAME_CHARS
from peerlearn.security.group import Group
from peerlearn.security.revocation import Revocations
from peerlearn.text import is_name
from peerlearn.wire.cards import is_peer_id

T = TypeVar("T")

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_DAYS_MOST = 36_500


def required(file: Path | None) -> Path:
    """The group file. Raises ConfigError when none was named."""
    if file is None:
        raise ConfigError(f"which group? name its file by --group FILE, or in {GROUP_VARIABLE}")
    return file


def new(name: str, out: Path | None, days: float, output: Output) -> None:
    """Make a group. Raises GroupError when the file is there already or cannot be written."""
    group = Group.new(name, days=_days(days, "--days"))
    path = out if out is not None else Path(f"{_as_file(name)}.group")
    group.save(path)
    output.say(f"Made the group {name!r} in {path}, readable by you alone. Whoever holds a copy is in.")
    output.say(f"Bring it to the others by a safe way, such as: scp -p {path} HOST:")
    output.say(f"Then, here and there: peerlearn up ... --group {path}")
    output.result({"file": str(path), **_facts(group)})


def show(path: Path, output: Output) -> None:
    """Print what a group file holds, without its secrets. Raises GroupError when it cannot be used as it is."""
    group, revoked = _load(path)
    facts = {"file": str(path), **_facts(group), **_shut_out(revoked)}
    output.result(facts)
    if not output.as_json:
        table = Table(box=None, pad_edge=False, show_header=False)
        for label, value in facts.items():
            for at, line in enumerate(_lines(value)):
                table.add_row(label.replace("_", " ") if not at else "", plain(line))
        output.console.print(table)


def issue(name: str, path: Path, out: Path | None, days: float, output: Output) -> None:
    """Make a member's file. Raises GroupError without the group's key, or when a file cannot be written."""
    group, _ = _load(path)
    if name in {each.name for each in group.issued} or not is_name(name, NAME_CHARS):
        raise ConfigError(
            f"{name[:80]!r}: choose a name of 1 to {NAME_CHARS} printable characters that was not issued before"
        )
    entered, member = group.issue(name, days=_days(days, "--days"))
    place = out if out is not None else Path(f"{_as_file(name)}.member")
    member.save(place)
    entered.save(path, replace=True)
    until = _day(entered.issued[-1].until)
    output.say(
        f"Made {place} for {name!r}: it lets that machine in until {until}. It is secret: use scp -p, then delete"
    )
    output.say(f"it here. To shut the machine out before: peerlearn group revoke {name} --group {path}")
    output.result(
        {"file": str(place), "name": name, "fingerprint": entered.issued[-1].fingerprint.hex(), "until": until}
    )


def revoke(who: Sequence[str], path: Path, seconds: float, peers: tuple[str, ...], output: Output) -> None:
    """Shut out certificates and peers. Raises ConfigError for an unknown name, GroupError without the group's key."""
    choices.addresses(peers)
    if not seconds >= 0:
        raise ConfigError(f"--seconds must be at least 0, not {seconds:g}")
    group, _ = _load(path)
    _ = group.signer
    scope = Scope(seconds, "", peers, path)
    certificates, ids, names = _sorted_out(who, group)
    if names and seconds <= 0:
        raise ConfigError(f"{names[0]!r} is no issued certificate, fingerprint or id; see peerlearn group show")
    if seconds > 0:
        # Also to hear of newer lists than the one kept here, so that ours goes on from it.
        for id, certificate in _looked(_seen(names, ids, scope), output):
            ids.add(id)
            certificates.add(certificate)
    made = _load(path)[1].also(group, certificates=certificates, peers=ids)
    revocation.save(made, revocation.path_of(path))
    told = _looked(_told(scope), output) if seconds > 0 else []
    output.say(f"Revoked {', '.join(who)}. Told {', '.join(told) or 'nobody yet'}; peers tell one another.")
    if ids and group.key is not None:
        output.say("Whoever holds a copy of the group file can come back under a new id: then peerlearn group rotate.")
    output.result({"serial": made.serial, "told": told, **_shut_out(made)})


def rotate(path: Path, overlap: float, days: float, output: Output) -> None:
    """Give the group a new key. Raises GroupError without the old one, or when a file cannot be written."""
    group, known = _load(path)
    if not 0 <= overlap <= _DAYS_MOST:
        raise ConfigError(f"--overlap must lie between 0 and {_DAYS_MOST} days, not {overlap:g}")
    made = group.rotate(days=_days(days, "--days"), overlap_days=overlap)
    again = known.again(made)
    made.save(path, replace=True)
    revocation.save(again, revocation.path_of(path))
    end = f"until {_day(time.time() + overlap * 86_400)}" if overlap else "no more"
    output.say(f"The group has a new key, in {path}. Copy it to all who hold the file: the old one works {end}.")
    if group.issued:
        output.say(f"Issue new certificates to: {', '.join(each.name for each in group.issued)}")
    output.result({"file": str(path), **_facts(made)})


def _load(path: Path) -> tuple[Group, Revocations]:
    group = Group.load(path)
    return group, revocation.load(revocation.path_of(path), group)


def _sorted_out(who: Sequence[str], group: Group) -> tuple[set[bytes], set[str], list[str]]:
    """Fingerprints, ids, and what is neither; names of issued certificates become fingerprints."""
    certificates: set[bytes] = set()
    ids: set[str] = set()
    unknown = []
    issued = {each.name: each.fingerprint for each in group.issued}
    for each in who:
        if each in issued:
            certificates.add(issued[each])
        elif _FINGERPRINT.fullmatch(each):
            certificates.add(bytes.fromhex(each))
        elif is_peer_id(each):
            ids.add(each)
        else:
            unknown.append(each)
    return certificates, ids, unknown


async def _seen(names: Sequence[str], ids: Collection[str], scope: Scope) -> list[tuple[str, bytes]]:
    """Ids and certificates of peers that are up. Raises ConfigError for a name that no peer has, or several; an id need
    not be here."""
    async with observing(scope, watch=False) as observer:
        await asyncio.sleep(scope.seconds)
        found = [observer.directory.find(name).card for name in names]
        found += [contact.card for contact in observer.directory.here() if contact.id in ids]
    return [(card.id, card.certificate_sha256) for card in found]


def _looked(looking_around: Coroutine[Any, Any, list[T]], output: Output) -> list[T]:
    """What was found; an empty list, and a warning why, when this machine cannot look around."""
    try:
        return asyncio.run(looking_around)
    except NetworkError as exc:
        output.warn(f"nobody could be reached from here ({exc}); whoever runs with this file tells the others")
        return []


async def _told(scope: Scope) -> list[str]:
    """Introduce ourselves to all peers that are up: the list goes with it. Names of those that were reached."""
    async with observing(scope, watch=False) as observer:
        await asyncio.sleep(scope.seconds)
        return [contact.name for contact in observer.directory.here()]


def _facts(group: Group) -> dict[str, Any]:
    own = group.authorities[0]
    facts: dict[str, Any] = {
        "name": group.name,
        "id": group.id,
        "seen_by_outsiders": group.hash,
        "holds": "the group's key" if group.key is not None else "a member's certificate",
        "authority": authority.fingerprint_of(authority.der(own)).hex(),
        "until": _day(own.not_valid_after_utc.timestamp()),
        "older_keys_until": [_day(old.not_valid_after_utc.timestamp()) for old in group.trusted(time.time())[1:]],
    }
    if group.member is not None:
        facts["certificate"] = group.member.fingerprint.hex()
        facts["certificate_until"] = _day(group.member.until)
    if group.key is not None:
        facts["issued"] = [
            {"name": each.name, "fingerprint": each.fingerprint.hex(), "until": _day(each.until)}
            for each in group.issued
        ]
    return facts


def _shut_out(revoked: Revocations) -> dict[str, Any]:
    certificates = sorted(each.hex() for each in revoked.certificates)
    return {"revoked_certificates": certificates, "revoked_peers": sorted(revoked.peers)}


def _lines(value: Any) -> list[str]:
    if not isinstance(value, list):
        return [str(value)]
    texts = ["  ".join(map(str, each.values())) if isinstance(each, dict) else str(each) for each in value]
    return texts or ["none"]


def _days(days: float, option: str) -> float:
    choices.above(0, days, option)
    if days > _DAYS_MOST:
        raise ConfigError(f"{option} is at most {_DAYS_MOST}, not {days:g}")
    return days


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%d %H:%M UTC")


def _as_file(name: str) -> str:
    return re.sub(r"[^0-9A-Za-z._-]+", "-", name).strip(".-") or "group"
