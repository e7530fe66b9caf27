"""Trains many configurations of one head in one pass over the tokens."""
