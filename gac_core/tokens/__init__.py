"""Text as bytes: each member's tokens, the union vocabulary, the ids each member has read."""
