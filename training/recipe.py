"""Recipes of age methods as files: what a run trains, on what, how long. Shipped ones lie in ``training/recipes``."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from inference.method import method_names
from training.errors import RecipeError
from training.fit import Schedule
from training.losses import LOSSES

_STRICT = ConfigDict(frozen=True, extra="forbid")


class Phase(BaseModel):
    """One stretch of a run, with films and a schedule of its own; it starts from the weights of the one before."""

    model_config = _STRICT

    name: str
    method: dict[str, Any] = Field(default_factory=dict)
    """Overrides of the recipe's ``method`` for this phase, such as a smaller crop."""
    batch: int = Field(gt=0)
    sharp_share: float = Field(ge=0, le=1)
    """Share of the films of a batch that come from the ``train`` part; the others are small ones (``pretrain``)."""
    balance: float = Field(0.0, ge=0, le=1)
    """Draw films by the density of their age to the power of minus this."""
    epochs: int = Field(gt=0)
    steps_per_epoch: int = Field(gt=0)
    peak_learning_rate: float = Field(gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    averaging: float = Field(0.998, ge=0, lt=1)
    warm_up: float = Field(0.15, gt=0, lt=1)

    def schedule(self, *, half_precision: bool) -> Schedule:
        """Return how long and how fast to train."""
        return Schedule(
            epochs=self.epochs,
            steps_per_epoch=self.steps_per_epoch,
            peak_learning_rate=self.peak_learning_rate,
            weight_decay=self.weight_decay,
            averaging=self.averaging,
            warm_up=self.warm_up,
            half_precision=half_precision,
        )


class Recipe(BaseModel):
    """How to train one age method."""

    model_config = _STRICT

    target: str
    """One of ``inference.method.method_names``."""
    loss: str
    """One of ``training.losses.LOSSES``."""
    method: dict[str, Any]
    """The method's configuration, as it goes into the bundle's ``inference.json``."""
    phases: tuple[Phase, ...] = Field(min_length=1)

    @field_validator("target")
    @classmethod
    def _is_a_method(cls, name: str) -> str:
        if name not in method_names():
            raise ValueError(f"there is no method {name!r}; there are {', '.join(method_names())}")
        return name

    @field_validator("loss")
    @classmethod
    def _is_a_loss(cls, name: str) -> str:
        if name not in LOSSES:
            raise ValueError(f"there is no loss {name!r}; there are {', '.join(LOSSES)}")
        return name


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes of this package by name."""
    folder = Path(str(resources.files("training").joinpath("recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_recipe(name_or_path: str) -> Recipe:
    """Read a shipped recipe by its name, or a file.

    Raises
    ------
    RecipeError
        If there is none, or it holds something a recipe has not.
    """
    shipped = shipped_recipes()
    path = shipped.get(name_or_path, Path(name_or_path))
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise RecipeError(f"There is no recipe {name_or_path!r}; shipped are {', '.join(shipped)}.") from error
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise RecipeError(f"Recipe {path} cannot be used: {error}") from error
