"""The grid of a paper in one file: extraction, probing and the report in turn."""

from layercache.study.file import HeadPlan, Study, read_study
from layercache.study.runner import Failure, Outcome, Status, look, run_study

__all__ = ["Failure", "HeadPlan", "Outcome", "Status", "Study", "look", "read_study", "run_study"]
