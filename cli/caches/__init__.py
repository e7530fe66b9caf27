"""Commands that work on caches."""
