"""Carrying messages between peers, over gRPC or within one process."""

import os

# Read by grpc when it is imported. Its fork handlers deadlock the worker processes that data loaders fork; and what it
# has to say about ports and connections we raise as errors: on stderr it would stand between our host's own lines.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
