"""Many runs: a comparison of methods over seeds, its records and its statistics."""

from mixwell.studies.compare import Cell, compare, plan
from mixwell.studies.records import RunRecord, load_records
from mixwell.studies.statistics import Interval, MethodSummary, Test, summarise

__all__ = [
    "Cell",
    "Interval",
    "MethodSummary",
    "RunRecord",
    "Test",
    "compare",
    "load_records",
    "plan",
    "summarise",
]
