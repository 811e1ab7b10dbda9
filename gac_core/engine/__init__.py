"""What answers the asks of all running requests."""
