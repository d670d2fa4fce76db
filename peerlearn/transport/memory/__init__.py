"""The transport within one process, without sockets."""
