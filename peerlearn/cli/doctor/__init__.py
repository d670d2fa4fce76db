"""`peerlearn doctor`: probes of what makes discovery on a LAN fail, and their table."""
