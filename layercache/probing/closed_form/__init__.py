"""Classifiers and regressions that linear algebra solves, as pure functions of tensors."""
