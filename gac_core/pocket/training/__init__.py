"""What the pocket members are trained with: recipes, conversations, tokenizers, batches, models."""
