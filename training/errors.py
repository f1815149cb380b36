"""What can go wrong while making a model.

::

    TrainingError               training.error
    ├── DataError               training.data        a film, table or annotation is missing, broken or contradictory
    └── RunError                training.run         a run's folder or checkpoint cannot be used
"""

from __future__ import annotations


class TrainingError(Exception):
    """Base of this package's errors; ``code`` is stable."""

    code = "training.error"


class DataError(TrainingError):
    """A film, table or annotation is missing, broken or contradictory."""

    code = "training.data"


class RunError(TrainingError):
    """A run's folder or checkpoint cannot be used."""

    code = "training.run"
