"""Bad networks: which frames are delayed, lost or changed, and the two places where that is done."""
