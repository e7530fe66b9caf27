"""Storage of probes, and the table of their results."""
