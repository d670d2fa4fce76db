"""One exchange, free of I/O libraries: its protocol, deadline, queue and dispatch. Knows no gRPC."""
