"""Recipes as files: what a run trains, on what, how long. Shipped ones lie in ``training/recipes``."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from inference.method import method_names
from training.errors import RecipeError
from training.fit import Schedule
from training.losses import LOSSES

DETECTORS = ("finder", "landmarks", "regions")
"""The shared detector's nets and global-local's own; all other recipes are age methods'."""
_STRICT = ConfigDict(frozen=True, extra="forbid")


class Stretch(BaseModel):
    """Batches and schedule of one call of :func:`training.fit.fit`."""

    model_config = _STRICT

    batch: int = Field(gt=0)
    """Films of a step, of all processes together."""
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


class Phase(Stretch):
    """One stretch of an age method's run; it starts from the weights of the one before."""

    name: str
    method: dict[str, Any] = Field(default_factory=dict)
    """Overrides of the recipe's ``method`` for this phase, such as a smaller crop."""
    sharp_share: float = Field(ge=0, le=1)
    """Share of the films of a batch that come from the ``train`` part; the others are small ones (``pretrain``)."""
    balance: float = Field(0.0, ge=0, le=1)
    """Draw films by the density of their age to the power of minus this."""


class DetectorRecipe(Stretch):
    """How to train one of the detector's nets."""

    target: Literal["finder", "landmarks"]


class RegionRecipe(Stretch):
    """How to train global-local's own detector (``inference.yolo``)."""

    target: Literal["regions"]
    width: float = Field(gt=0)
    depth: float = Field(gt=0)
    side: int = Field(gt=0, multiple_of=32)
    """Of its square input in pixels."""


class Recipe(BaseModel):
    """How to train one age method."""

    model_config = _STRICT

    target: str
    """One of ``inference.method.method_names``."""
    loss: str
    """One of ``training.losses.LOSSES``."""
    method: dict[str, Any]
    """The method's configuration, as it goes into the bundle's ``inference.json``."""
    choose_epoch: bool = True
    """Whether the last phase's best epoch by validation MAE is kept, else its last: intervals from the validation part
    are honest where nothing was chosen on it."""
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


AnyRecipe = Recipe | DetectorRecipe | RegionRecipe
_KINDS: dict[object, type[AnyRecipe]] = {
    "finder": DetectorRecipe, "landmarks": DetectorRecipe, "regions": RegionRecipe
}  # fmt: skip


def _shipped() -> dict[str, Path]:
    folder = Path(str(resources.files("training").joinpath("recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def shipped_recipes() -> dict[str, Path]:
    """Return this package's recipes of age methods by name."""
    return {name: path for name, path in _shipped().items() if name not in DETECTORS}


def open_recipe(name_or_path: str) -> AnyRecipe:
    """Read a shipped recipe by its name, or a file.

    Raises
    ------
    RecipeError
        If there is none, or it holds something a recipe has not.
    """
    shipped = _shipped()
    path = shipped.get(name_or_path, Path(name_or_path))
    try:
        content = tomllib.loads(path.read_text())
        return _KINDS.get(content.get("target"), Recipe).model_validate(content)
    except OSError as error:
        raise RecipeError(f"There is no recipe {name_or_path!r}; shipped are {', '.join(shipped)}.") from error
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise RecipeError(f"Recipe {path} cannot be used: {error}") from error


def read_recipe(name_or_path: str) -> Recipe:
    """Read an age method's recipe.

    Raises
    ------
    RecipeError
        As :func:`open_recipe`, or if it is a detector's.
    """
    recipe = open_recipe(name_or_path)
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"Recipe {name_or_path!r} trains the detector; name an age method's.")
    return recipe
