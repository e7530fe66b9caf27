"""Sources of datasets, one file per kind."""
