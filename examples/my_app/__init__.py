"""An application of somebody else: its peer is launched from here by `peerlearn up my_app.model:learner`."""
