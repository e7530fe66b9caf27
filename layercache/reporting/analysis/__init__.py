"""Computations of a report: gains, statistics, errors, similarity, attention."""
