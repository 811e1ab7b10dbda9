"""Members, methods and controls on the same questions."""
