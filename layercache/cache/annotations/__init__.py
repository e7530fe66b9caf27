"""Annotations: columns of values for the samples of a cache, next to its tokens."""
