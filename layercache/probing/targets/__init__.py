"""Targets of probes, from annotation columns."""
