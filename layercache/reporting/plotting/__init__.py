"""Plots of a report; each function returns a matplotlib Figure."""
