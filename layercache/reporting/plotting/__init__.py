"""Figures: the canvas, heatmaps and curves."""
