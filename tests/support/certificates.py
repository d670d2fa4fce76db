"""Certificates that are none."""


def unreadable(certificate: bytes) -> dict[str, bytes]:
    """Certificates in DER that somebody has made up: each comes apart at another place, and some only when a field is
    looked at."""
    changes = {
        "kind of key": ("2a8648ce3d0201", "2a8648ce3d0202"), "curve": ("2a8648ce3d030107", "2a8648ce3d03010f"),
        "no point": ("034200", "034201"), "version": ("a003020102", "a003020113"), "no name": ("5504030c", "5504040c"),
        "twice one extension": ("0603551d0e", "0603551d23"), "text": (b"peerlearn".hex(), "70656572fffefdfcfb"),
        "date": ("5a170d", "5a170d39"),
    }  # fmt: skip
    return {why: bytes.fromhex(certificate.hex().replace(*change)) for why, change in changes.items()}
