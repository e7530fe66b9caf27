"""Late fusion: a log-linear pool of trained probes, fitted on samples that they held out."""
