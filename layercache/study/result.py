"""Status of a study's jobs before a run, and the result of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from layercache.cache.storage.paths import CachePath
from layercache.probing.results.table.table import Results
from layercache.study.plan import PlannedExtraction, PlannedJob


@dataclass(frozen=True, kw_only=True)
class Status:
    """Status of a job before a run."""

    job: PlannedJob
    """The job."""
    complete: bool
    """True if it is complete, by the records on disk."""
    seconds: float
    """Estimated duration in seconds; 0 if it is complete, or with `same_forward`."""
    same_forward: PlannedExtraction | None = None
    """Missing extraction whose forward pass also writes the missing cache of this job."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failed job."""

    job: str
    """Name of the job."""
    reason: str
    """Error in one line."""
    waiting: int = 0
    """Number of probes that were not run because of it."""

    def __str__(self) -> str:
        """Return the failure as one line."""
        waiting = f" ({self.waiting} probes of it not run)" if self.waiting else ""
        return f"{self.job}{waiting}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """Result of a run of a study."""

    jobs: int
    """Number of extractions and probes of the study; a probe with all its seeds counts as one."""
    done: int
    """Number of complete jobs."""
    failures: tuple[Failure, ...]
    """Failed jobs; a failure of the report is the last."""
    caches: tuple[CachePath, ...]
    """Complete caches of the study."""
    results: Results
    """Probes of the study."""
    page: Path | None
    """Page of the report, or None if none was written."""
