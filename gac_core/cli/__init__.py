"""The `gac` command."""
