"""Text as bytes: each member's tokens, the vocabulary they share, what each has read."""
