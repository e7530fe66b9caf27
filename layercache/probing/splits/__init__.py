"""Samples that train, select and test a probe."""
