"""Thin adapters of `gac_core` for the frameworks in which applications are written."""
