"""Which configuration of a search is chosen."""
