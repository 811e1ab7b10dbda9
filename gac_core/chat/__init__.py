"""Messages and tools to prompts, and answers back to calls."""
