"""Settings of the process around a peer: memory allocator, garbage collector, limit of open files."""
