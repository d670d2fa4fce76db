"""Peers that fail, lie and are tormented: for the fault matrix, the soak and the fuzzer."""
