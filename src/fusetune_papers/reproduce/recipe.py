"""The experiments as files: one YAML in `recipes/` per notebook of the paper, with what it printed.

A file says what an experiment is made of. What it gets wrong is not in the file: that is what the switches of `flaws`
are for, which is why the `sound:` part of a file is short.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Literal

from pydantic import Field, ValidationError

from fusetune.config import Section, TrainConfig, read_yaml
from fusetune.errors import ConfigError, did_you_mean
from fusetune.evaluate.intervals import Interval, wilson

Form = Literal["paper", "sound"]
# Mean and standard deviation of CIFAR-100, which all notebooks normalise with.
CIFAR_MEAN, CIFAR_STD = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)
# StepLR(7, .1) never fires within the 3 to 5 epochs that are run: the rate is constant.
_PLAIN: dict[str, Any] = {
    "momentum": 0.9, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0, "clip": 0.0, "label_smoothing": 0.0,
    "dropout": 0.0, "average": 0.0, "patience": 0,
}  # fmt: skip
_FOLDER = files("fusetune_papers") / "recipes"


class Stage(Section):
    """A network or a head that is trained by a loop, with a constant rate."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    lr: float = Field(5e-4, gt=0)

    def training(self, optimiser: Literal["sgd", "adamw"] = "sgd") -> TrainConfig:
        """Return the settings of the training loop: SGD with momentum .9, no weight decay."""
        own = {"epochs": self.epochs, "batch_size": self.batch_size, "lr": self.lr, "head_lr": self.lr}
        return TrainConfig(optimiser=optimiser, **own, **_PLAIN)


class TextStage(Stage):
    """A text network, trained alone with Adam; the weights of the last epoch are kept."""

    encoder: str = "shallow"
    pooling: Literal["mean", "last", "flat"] = "mean"
    max_tokens: int = Field(64, ge=1)
    lr: float = Field(gt=0)
    one_based: bool = Field(True, description="the labels start at 1, which is what L7 makes of them")

    def training(self, optimiser: Literal["sgd", "adamw"] = "adamw") -> TrainConfig:
        """Return the settings of the training loop; AdamW without weight decay is Adam."""
        return super().training(optimiser)


class Printed(Section):
    """What a notebook printed: accuracies and losses by part and epoch, and where it ends."""

    kept: dict[str, float] = Field(description="accuracy of the checkpoint that was kept, by part")
    rows: int = Field(description="test rows")
    train: tuple[float, ...] = ()
    valid: tuple[float, ...] = ()
    test: tuple[float, ...] = ()
    losses: dict[str, tuple[float, ...]] = Field({})
    minutes: float | None = None

    @property
    def correct(self) -> int:
        """Test rows decided correctly."""
        return round(self.kept["test"] * self.rows)

    @property
    def interval(self) -> Interval:
        """Test accuracy with its Wilson interval, as if rows were independent (frames of one video are not)."""
        return Interval(self.kept["test"], *wilson(self.correct, self.rows))


class Recipe(Section):
    """One experiment."""

    name: str
    notebook: int | None = Field(None, ge=1, le=11, description="number of the published notebook")
    title: str
    data: Literal["fpus23", "upmc-food101", "phantom"]
    stage: Literal["image", "text", "fused"] = Field(
        description="what is judged: one network alone, or the head on all"
    )
    encoder: str | None = Field(None, description="image encoder: a hub id, a local folder or a package")
    size: int = Field(224, ge=16)
    canvas: int = Field(244, ge=16, description="side of the picture that training crops are taken from")
    side: tuple[Literal["place", "text"], ...] = Field((), description="what stands beside the image in the head")
    image: Stage | None = Field(None, description="stage U; without it the encoder stays as it was pretrained")
    text: TextStage | None = None
    head: Stage | None = None
    without: tuple[str, ...] = Field((), description="flaws of the data set's notebooks that this one has not")
    views: int = Field(2, ge=1, description="augmented views per training row where every view is encoded once")
    printed: Printed | None = None

    @property
    def networks(self) -> str:
        """The names of its networks."""
        return " + ".join(filter(None, (self.encoder, self.text.encoder if self.text else None)))

    def changed(self, **stages: dict[str, Any]) -> Recipe:
        """Return it with other settings of the stages that it has."""
        tree = self.model_dump()
        return Recipe(**tree | {stage: tree[stage] | new for stage, new in stages.items() if tree[stage]})


def recipe_names() -> list[str]:
    """Return the names of all packaged recipes, sorted."""
    return sorted(item.name.removesuffix(".yaml") for item in _FOLDER.iterdir() if item.name.endswith(".yaml"))


def load_recipe(name: str, form: Form) -> Recipe:
    """Return a packaged recipe as published or in its sound form.

    Raises:
        ConfigError: There is no such recipe.
    """
    if name not in recipe_names():
        raise ConfigError(f"there is no recipe '{name}'{did_you_mean(name, recipe_names())}; see reproduce --list")
    tree = read_yaml((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    changes = tree.pop("sound", {})
    try:
        recipe = Recipe(name=name, **tree)
        return recipe.changed(**changes) if form == "sound" else recipe
    except ValidationError as error:
        raise ConfigError(f"recipe '{name}': {error}") from error


def recipes_of(data: str, form: Form) -> list[Recipe]:
    """Return the recipes of a data set in the order of their notebooks."""
    recipes = [recipe for name in recipe_names() if (recipe := load_recipe(name, form)).data == data]
    return sorted(recipes, key=lambda recipe: (recipe.notebook or 0, recipe.name))


def with_batches_of(recipe: Recipe, other: Recipe) -> Recipe:
    """Return a recipe with the batch sizes of another form (L15: those of compared runs differ)."""
    pairs = {"image": other.image, "head": other.head}
    return recipe.changed(**{name: {"batch_size": stage.batch_size} for name, stage in pairs.items() if stage})


def quicker(recipe: Recipe) -> Recipe:
    """Return a recipe that runs in seconds on a CPU: the built-in network on small pictures, one epoch."""
    loop = {"epochs": 1, "batch_size": 16}
    quick = recipe.changed(image=loop, head=loop, text={"encoder": "shallow", "pooling": "mean", "epochs": 2})
    return quick.model_copy(update={"encoder": recipe.encoder and "builtin", "size": 32, "canvas": 36, "views": 1})
