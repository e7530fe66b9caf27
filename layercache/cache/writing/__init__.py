"""Committing row blocks, one by one, so that a killed writer loses only the block in flight."""
