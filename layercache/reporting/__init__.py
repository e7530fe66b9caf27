"""Looking at results: attention, similarity, statistics, plots, the page."""
