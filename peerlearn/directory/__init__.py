"""The directory: peers that are confirmed (alive, suspect or gone), and leads to further ones. Pure bookkeeping."""

from peerlearn.directory.contacts import START, Change, Contact, Liveness
from peerlearn.directory.directory import Directory
from peerlearn.directory.leads import Lead, Leads

__all__ = ["START", "Change", "Contact", "Directory", "Lead", "Leads", "Liveness"]
