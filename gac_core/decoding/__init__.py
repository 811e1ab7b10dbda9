"""One request: what a method asks, reads and emits."""
