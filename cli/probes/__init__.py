"""Commands that train probes and read their results."""
