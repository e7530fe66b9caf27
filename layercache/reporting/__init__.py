"""Looking at results: attention, similarity, statistics, plots, the page."""

from layercache.reporting.plots import attention_heatmap
from layercache.reporting.run import Report, report
from layercache.reporting.similarity import linear_cka

__all__ = ["Report", "attention_heatmap", "linear_cka", "report"]
