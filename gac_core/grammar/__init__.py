"""Languages that an answer is held to."""
