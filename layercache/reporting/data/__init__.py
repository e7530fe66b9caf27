"""What a report is about: probes, their caches, names and targets."""
