"""`peerlearn group`: make a group, let a machine in, shut one out."""
