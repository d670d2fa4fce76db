"""Carrying messages between peers, over gRPC or within one process."""

import os

# Read by grpc when it is imported: its fork handlers deadlock the worker processes that data loaders fork.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
