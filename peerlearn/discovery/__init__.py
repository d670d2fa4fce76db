"""Discovery: ways for peers to find each other. mDNS, addresses given by the user, a lobby within one process."""

from peerlearn.discovery.base import Announcement, Discovery, Hint, Listener
from peerlearn.discovery.lobby import Lobby
from peerlearn.discovery.mdns import Mdns
from peerlearn.discovery.static import Static

__all__ = ["Announcement", "Discovery", "Hint", "Listener", "Lobby", "Mdns", "Static"]
