"""Caches of tokens that were computed elsewhere."""
