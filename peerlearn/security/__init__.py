"""Who somebody is: keys, signatures, and what they vouch for."""

from peerlearn.security.identity import Identity, fingerprint
from peerlearn.security.signing import open_card, sign_card

__all__ = ["Identity", "fingerprint", "open_card", "sign_card"]
