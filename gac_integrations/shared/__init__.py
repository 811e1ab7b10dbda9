"""What all adapters have in common."""
