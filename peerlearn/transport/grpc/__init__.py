"""The transport over gRPC. The only room, beside its fault relay, where gRPC is spoken."""
