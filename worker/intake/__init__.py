"""How scans arrive. Every way in ends in one place: spool, one transaction, then the bell."""

from slicewise.worker.intake.submit import Submission, submit

__all__ = ["Submission", "submit"]
