"""The group file: JSON with certificates and keys in PEM. Read with distrust, although only its owner may write it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509

from peerlearn.errors import GroupError
from peerlearn.security import authority
from peerlearn.security.credential import NAME_CHARS, Credential, Issued
from peerlearn.text import is_name

FORMAT = 1
_ID = re.compile(r"[0-9a-f]{32}")
_AUTHORITIES_MOST = 16
_ISSUED_MOST = 4096
_LATEST = 253_402_300_800.0
"""Seconds since 1970 at the end of the year 9999, behind which there are no dates."""


def parse(data: bytes, path: Path) -> dict[str, Any]:
    """The fields of a Group. Raises GroupError for anything that is not just a group file of this format."""
    try:
        content = json.loads(data)
        if not isinstance(content, dict) or not isinstance(content.get("peerlearn"), str):
            raise ValueError("it has no field 'peerlearn'")
        if content.get("format") != FORMAT:
            raise GroupError(f"{path} is of format {content.get('format')!r}: use a newer release of peerlearn")
        return _fields(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        why = f"it has no {exc}" if isinstance(exc, KeyError) else str(exc) or type(exc).__name__
        raise GroupError(
            f"{path} is not a group file, or is damaged ({why[:120]}): restore it from a copy, or from another member's"
        ) from exc


def _fields(content: Mapping[str, Any]) -> dict[str, Any]:
    name, id = content["name"], content["id"]
    if not is_name(name, NAME_CHARS):
        raise ValueError("its name is none")
    if not isinstance(id, str) or not _ID.fullmatch(id):
        raise ValueError("its id is not 32 hex digits")
    authorities, links = _certificates(content["authorities"]), _certificates(content["links"])
    if not authorities:
        raise ValueError("it names no authority")
    fields: dict[str, Any] = {"name": name, "id": id, "authorities": authorities, "links": links}
    if ("key" in content) == ("member" in content):
        raise ValueError("it must hold either a key or a member's certificate")
    if "key" in content:
        fields["key"] = key = authority.read_key(content["key"].encode())
        if not authority.belongs(key, authorities[0]):
            raise ValueError("its key is not that of its authority")
        fields["issued"] = tuple(map(_issued, content["issued"][:_ISSUED_MOST]))
        return fields
    member_key = authority.read_key(content["member"]["key"].encode())
    certificate, *above = _certificates(content["member"]["chain"])
    if not authority.belongs(member_key, certificate):
        raise ValueError("its key is not that of its certificate")
    fields["member"] = Credential(member_key, certificate, tuple(above))
    return fields


def _issued(entry: Mapping[str, Any]) -> Issued:
    name, until = entry["name"], float(entry["until"])
    if not isinstance(name, str) or not name.isprintable() or not 0 <= until < _LATEST:
        raise ValueError("an entry of what was issued is none")
    return Issued(name, bytes.fromhex(entry["fingerprint"]), until)


def _certificates(texts: Any) -> tuple[x509.Certificate, ...]:
    if not isinstance(texts, list) or len(texts) > _AUTHORITIES_MOST:
        raise ValueError("its certificates are not a short list")
    return tuple(authority.read_pem(text.encode()) for text in texts)
