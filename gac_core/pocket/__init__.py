"""The embedded ensemble: three tiny chat models trained by this package itself."""
