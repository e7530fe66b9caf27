"""Reports on results: one page with figures, statistics and tables."""

from layercache.reporting.analysis.similarity import linear_cka
from layercache.reporting.api import Report, report
from layercache.reporting.plotting.attention_heatmap import attention_heatmap

__all__ = ["Report", "attention_heatmap", "linear_cka", "report"]
