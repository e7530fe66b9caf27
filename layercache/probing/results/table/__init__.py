"""The table of stored probes, its columns and its text."""
