"""What a task asks of y, logits and losses: an object each, known by its name.

A task of your own is a subclass of :class:`Task` in a file of yours, registered:

>>> from mixwell.losses import MixedL1
>>> @register
... class Counting(Task):
...     name, loss, has_classes = "counting", MixedL1, False
>>> get("counting")
<task 'counting'>
"""

from mixwell.tasks.base import Task, get, names, register
from mixwell.tasks.classification import Classification
from mixwell.tasks.multilabel import Multilabel
from mixwell.tasks.regression import Regression
from mixwell.tasks.segmentation import Segmentation

__all__ = [
    "Classification",
    "Multilabel",
    "Regression",
    "Segmentation",
    "Task",
    "get",
    "names",
    "register",
]
