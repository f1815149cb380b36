"""What can go wrong while making a model.

::

    TrainingError               training.error
    ├── DataError               training.data        a film, table or annotation is missing, broken or contradictory
    ├── RecipeError             training.recipe      a recipe is missing or holds something a recipe has not
    ├── RunError                training.run         a run's folder or checkpoint cannot be used
    └── TimeUp                  training.time        the time given to a run is over; the same command goes on
"""

from __future__ import annotations

import logging

from inference.errors import InferenceError

_log = logging.getLogger(__name__)


class TrainingError(Exception):
    """Base of this package's errors; ``code`` is stable."""

    code = "training.error"


class DataError(TrainingError):
    """A film, table or annotation is missing, broken or contradictory."""

    code = "training.data"


class RecipeError(TrainingError):
    """A recipe is missing or holds something a recipe has not."""

    code = "training.recipe"


class RunError(TrainingError):
    """A run's folder or checkpoint cannot be used."""

    code = "training.run"


class TimeUp(TrainingError):
    """The time given to a run is over; the same command goes on."""

    code = "training.time"


def exit_code(error: TrainingError | InferenceError) -> int:
    """Log why a command cannot do its work; returns 2 for data, recipes and runs, 1 for a model that does not open."""
    _log.error("%s: %s", error.code, error)
    return 2 if isinstance(error, TrainingError) else 1
