"""An app outside peerlearn. Start its peer from the folder above with `peerlearn up my_app.model:learner`."""
