"""Input of a report: probes, their caches, names and targets."""
