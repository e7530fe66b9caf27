"""Reports on results: one page with figures, statistics and tables."""

from layercache.reporting.api import Report, report
from layercache.reporting.plotting.attention_heatmap import attention_heatmap
from layercache.reporting.similarity import linear_cka

__all__ = ["Report", "attention_heatmap", "linear_cka", "report"]
