"""Members, methods and controls on the same questions, which the caller hands in."""
