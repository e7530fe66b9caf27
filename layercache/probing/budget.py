"""Memory that tokens may take."""

from __future__ import annotations

SHARE = 0.5
"""Fraction of the free memory that tokens may take without a budget; the rest is for fits and other processes."""
