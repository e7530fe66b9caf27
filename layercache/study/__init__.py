"""The grid of a paper in one file: extraction, probing and the report in turn."""

from layercache.study.file import HeadPlan, Study, read_study
from layercache.study.result import Failure, Status, StudyResult
from layercache.study.runner import run_study, study_status

__all__ = [
    "Failure",
    "HeadPlan",
    "Status",
    "Study",
    "StudyResult",
    "read_study",
    "run_study",
    "study_status",
]
