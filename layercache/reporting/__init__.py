"""Looking at results: attention, similarity, statistics, plots, the page."""

from layercache.reporting.api import Report, report
from layercache.reporting.plotting.heatmaps import attention_heatmap
from layercache.reporting.similarity import linear_cka

__all__ = ["Report", "attention_heatmap", "linear_cka", "report"]
