"""Caches every layer's CLS and average-pooled token of frozen Vision Transformers; trains fusion probes from the cache."""
