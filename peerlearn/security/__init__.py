"""Who a peer is, and which peers belong together: keys, signatures, groups, and what they vouch for."""

from peerlearn.security.group import Group
from peerlearn.security.identity import Identity, fingerprint
from peerlearn.security.passport import Passport
from peerlearn.security.signing import open_card, sign_card

__all__ = ["Group", "Identity", "Passport", "fingerprint", "open_card", "sign_card"]
