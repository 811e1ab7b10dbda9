"""The decoding of one request: what its method asks, reads and emits."""
