"""Many runs: protocols, the store of results, engines that run them, and statistics."""

from mixwell.studies.declare import as_study
from mixwell.studies.engines import Engine, LocalEngine, RayEngine
from mixwell.studies.frames import compare, load_results
from mixwell.studies.protocols import PROTOCOLS, Protocol
from mixwell.studies.records import RunRecord
from mixwell.studies.results_file import ResultsFile
from mixwell.studies.run import run_cells, run_study
from mixwell.studies.statistics import Interval, MethodSummary, Test, summarise
from mixwell.studies.store import Cell, Store, load_records
from mixwell.studies.study import Study, read_study

__all__ = [
    "PROTOCOLS",
    "Cell",
    "Engine",
    "Interval",
    "LocalEngine",
    "MethodSummary",
    "Protocol",
    "RayEngine",
    "ResultsFile",
    "RunRecord",
    "Store",
    "Study",
    "Test",
    "as_study",
    "compare",
    "load_records",
    "load_results",
    "read_study",
    "run_cells",
    "run_study",
    "summarise",
]
