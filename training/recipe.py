"""Recipes as files: what a run trains, on what, how long. Shipped ones lie in ``training/recipes``."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from inference.method import config_keys, method_names
from training.ages import LABEL_SOFTNESS_MONTHS
from training.augmentation import Augmentation
from training.errors import RecipeError
from training.fit import Drops, Optimiser, Schedule
from training.losses import LOSSES, METHODS_OF

DETECTORS = ("finder", "landmarks", "regions")
"""The shared detector's nets and global-local's own; all other recipes are age methods'."""
PAPER = "-paper"
"""How the names of recipes end that hold what a paper states."""
_STRICT = ConfigDict(frozen=True, extra="forbid")


class Steps(BaseModel):
    """A learning rate that falls in steps, after a linear rise if one is asked for."""

    model_config = _STRICT

    factor: float = Field(gt=0, lt=1)
    """What it is multiplied by at each step."""
    every_epochs: int | None = Field(None, gt=0)
    at_epochs: tuple[int, ...] = ()
    """It falls after so many epochs."""
    at_steps: tuple[int, ...] = ()
    """It falls after so many batches, for papers that count these."""
    warm_up_epochs: int = Field(0, ge=0)
    """Epochs, counted among the others, in which it rises to the peak."""
    warm_up_from: float = Field(0.0, ge=0)
    """The learning rate it rises from."""

    @model_validator(mode="after")
    def _falls_once(self) -> Self:
        if sum(map(bool, (self.every_epochs, self.at_epochs, self.at_steps))) != 1:
            raise ValueError("steps need one of every_epochs, at_epochs and at_steps")
        return self

    def drops(self, epochs: int, steps_per_epoch: int, peak: float) -> Drops:
        """Return the same in batches and as shares of the peak learning rate."""
        ends = range(self.every_epochs, epochs, self.every_epochs) if self.every_epochs else self.at_epochs
        return Drops(
            steps=self.at_steps or tuple(end * steps_per_epoch for end in ends),
            factor=self.factor,
            warm_up=self.warm_up_epochs * steps_per_epoch,
            begin=self.warm_up_from / peak if self.warm_up_epochs else 1.0,
        )


_CONSTANT = Drops(steps=(), factor=1.0)


class Stretch(BaseModel):
    """Batches and schedule of one call of :func:`training.fit.fit`."""

    model_config = _STRICT

    batch: int = Field(gt=0)
    """Films of a step, of all processes together."""
    epochs: int = Field(gt=0)
    steps_per_epoch: int = Field(gt=0)
    peak_learning_rate: float = Field(gt=0)
    rate: Literal["one-cycle", "constant"] | Steps = "one-cycle"
    """How the learning rate goes to its peak and from it."""
    warm_up: float = Field(0.15, gt=0, lt=1)
    """Share of one cycle in which it rises."""
    end_learning_rate: float | None = Field(None, gt=0)
    """Where one cycle ends; without, next to nothing."""
    optimiser: Optimiser = "adamw"
    momentum: float = Field(0.0, ge=0, lt=1)
    """Of sgd, which alone has it."""
    weight_decay: float = Field(1e-4, ge=0)
    clip: float = Field(5.0, ge=0)
    """Gradients of a step that are longer together are shortened to this; 0 leaves them."""
    averaging: float = Field(0.998, ge=0, lt=1)
    """Decay, a step, of the moving average of the weights, which is what a run ends with; 0 takes the last weights."""

    @model_validator(mode="after")
    def _has_what_its_optimiser_takes(self) -> Self:
        if self.momentum and self.optimiser != "sgd":
            raise ValueError(f"{self.optimiser} takes no momentum")
        if self.end_learning_rate and self.rate != "one-cycle":
            raise ValueError("only one cycle has an end_learning_rate")
        return self

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
            optimiser=self.optimiser,
            momentum=self.momentum,
            drops=self._drops(),
            clip=self.clip,
            end_share=self.end_learning_rate and self.end_learning_rate / self.peak_learning_rate,
        )

    def _drops(self) -> Drops | None:
        if isinstance(self.rate, Steps):
            return self.rate.drops(self.epochs, self.steps_per_epoch, self.peak_learning_rate)
        return _CONSTANT if self.rate == "constant" else None


class Phase(Stretch):
    """One stretch of an age method's run; it starts from the weights of the one before."""

    name: str
    method: dict[str, Any] = Field(default_factory=dict)
    """Overrides of the recipe's ``method`` for this phase, such as a smaller crop."""
    sharp_share: float = Field(ge=0, le=1)
    """Share of the films of a batch that come from the ``train`` part; the others are small ones (``pretrain``)."""
    balance: float = Field(0.0, ge=0, le=1)
    """Draw films by the density of their age to the power of minus this."""
    patience: int | None = Field(None, gt=0)
    """Epochs without a better validation MAE after which the phase ends; without, it never ends early."""

    def schedule(self, *, half_precision: bool) -> Schedule:
        """Return how long and how fast to train."""
        return replace(super().schedule(half_precision=half_precision), patience=self.patience)


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
    imagenet: bool = False
    """Whether it means to start from ImageNet weights; without any, training warns."""
    choose_epoch: bool = True
    """Whether the last phase's best epoch by validation MAE is kept, else its last: intervals from the validation part
    are honest where nothing was chosen on it."""
    augmentation: Literal["house", "faults"] | Augmentation = "house"
    """How films are changed at random: as this project does it, as films fail in practice (``training.faults``, on the
    device that trains, for ``house`` alone), or as a paper names it."""
    label_softness_months: float = Field(LABEL_SOFTNESS_MONTHS, ge=0)
    """Ages of training films move by up to this much, at random."""
    phases: tuple[Phase, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_a_loss_of_its_method(self) -> Self:
        if METHODS_OF.get(self.loss, self.target) != self.target:
            raise ValueError(f"the loss {self.loss!r} judges answers of {METHODS_OF[self.loss]} only")
        return self

    @model_validator(mode="after")
    def _changes_what_its_method_sees(self) -> Self:
        if self.augmentation == "faults" and self.target != "house":
            raise ValueError(f"the augmentation 'faults' changes crops of house only, not of {self.target}")
        return self

    def makes_batches_itself(self) -> bool:
        """Whether batches are made where the net is trained, and by no workers."""
        return self.augmentation == "faults"

    def with_phases(self, changes: dict[str, Any]) -> Self:
        """Return the recipe with changes of each of its phases."""
        return self.model_copy(update={"phases": tuple(phase.model_copy(update=changes) for phase in self.phases)})

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


def complete(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe as ``run.json`` holds it with what an earlier version did not say yet, by its default.

    Without ``imagenet``, which changes no training: ``run.json`` names what a run did start from.
    What is no recipe of this version is returned as it is.
    """
    kind = Recipe if "phases" in recipe else _KINDS.get(recipe.get("target"), Stretch)
    try:
        return kind.model_validate(recipe).model_dump(mode="json", exclude={"imagenet"})
    except ValidationError:
        return recipe


def _shipped() -> dict[str, Path]:
    folder = Path(str(resources.files("training").joinpath("recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def shipped_recipes() -> dict[str, Path]:
    """Return this package's recipes of age methods by name."""
    return {name: path for name, path in _shipped().items() if name.removesuffix(PAPER) not in DETECTORS}


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
        recipe = _KINDS.get(content.get("target"), Recipe).model_validate(content)
    except OSError as error:
        raise RecipeError(f"There is no recipe {name_or_path!r}; shipped are {', '.join(shipped)}.") from error
    except ValidationError as error:
        raise RecipeError(f"Recipe {path} cannot be used: {in_words(error)}.") from error
    except ValueError as error:  # of TOML, or of UTF-8
        raise RecipeError(f"Recipe {path} is no TOML in UTF-8: {error}.") from error
    return known_keys_only(recipe) if isinstance(recipe, Recipe) else recipe


def in_words(error: ValidationError) -> str:
    """Say what is wrong where, without pydantic's addresses: ``phases.0.batch: Input should be greater than 0``."""
    found = []
    for one in error.errors():
        place = ".".join(str(part) for part in one["loc"])
        found.append(f"{place}: {one['msg']}" if place else one["msg"].removeprefix("Value error, "))
    return "; ".join(found)


def known_keys_only(recipe: Recipe) -> Recipe:
    """Return a recipe whose method reads all that its configuration says, and no number of it is 0 or less.

    No validator of the model: a run that is there already keeps what an earlier version let pass.

    Raises
    ------
    RecipeError
        If the method does not know a key, without which it would train, or for such a number.
    """
    known = config_keys(recipe.target)
    configs = [("[method]", recipe.method), *((f"the method of phase {p.name}", p.method) for p in recipe.phases)]
    for place, config in configs:
        for key, value in config.items():
            if key not in known:
                raise RecipeError(
                    f"{recipe.target} knows no {key!r}, in {place}; it knows {', '.join(known)}.{_of_a_phase(key)}"
                )
            if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
                raise RecipeError(f"{key} = {value}, in {place}, must be above 0.")
    return recipe


def _of_a_phase(key: str) -> str:
    """Say where a key stands that belongs to a phase, and what changes it for one run; "" of another key."""
    if key not in Phase.model_fields:
        return ""
    return f" {key!r} belongs under [[phases]]; --epochs, --learning-rate and --averaging change theirs for one run."


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
