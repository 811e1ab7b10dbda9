"""Members: a scorer (a model in this process, or any other) with its tokenizer."""
