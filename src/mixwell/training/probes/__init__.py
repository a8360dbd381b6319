"""What is measured beside the test split's labels, each where it applies, in a file of its own.

A probe takes the subject, and returns what it adds to the evidence that measures are computed
from, by field; figures' arrays and details it leaves in the findings.
"""

from mixwell.training.probes.collapse import collapse
from mixwell.training.probes.fine import fine_classes
from mixwell.training.probes.outliers import load_other, load_outliers, outliers
from mixwell.training.probes.people import load_people, people
from mixwell.training.probes.samples import samples
from mixwell.training.probes.shift import shift
from mixwell.training.probes.subject import Findings, Subject, moments
from mixwell.training.probes.surface import surface
from mixwell.training.probes.uncertainty import uncertainty

__all__ = [
    "PROBES",
    "Findings",
    "Subject",
    "collapse",
    "fine_classes",
    "load_other",
    "load_outliers",
    "load_people",
    "moments",
    "outliers",
    "people",
    "samples",
    "shift",
    "surface",
    "uncertainty",
]

PROBES = (collapse, fine_classes, people, outliers, shift, uncertainty, surface, samples)
