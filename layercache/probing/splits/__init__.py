"""Which samples train, select and test a probe."""
