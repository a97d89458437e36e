"""One typed configuration tree. YAML mirrors it one to one, and every problem in it is reported at once.

A configuration is built from layers, later ones winning: defaults, the recipe, a YAML file, `--set` values. Within a
layer, `train.X: v` is short for the same setting of every kind of input (`image.train.X`, `text.train.X`, ...), so that
`--set train.epochs=3` does what it says while each kind keeps its own measured defaults.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fusetune.errors import ConfigError, did_you_mean

Probability = float
KINDS = ("image", "text", "columns", "vector")


class _Loader(yaml.SafeLoader):
    """YAML in which only true and false are truth values, as in YAML 1.2: `crossfit.how: off` is a word."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:bool"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


class _Dumper(yaml.SafeDumper):
    """Puts words in quotes that `_Loader` would take for numbers."""


# YAML 1.1 reads 1e-4 as a word because it has no dot.
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


def read_yaml(text: str) -> Any:
    """Parse YAML into plain values."""
    return yaml.load(text, _Loader)  # the loader is a SafeLoader


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values are checked on assignment."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class TrainConfig(Section):
    """How one encoder is fine-tuned (stage U)."""

    epochs: int = Field(8, ge=0, description="passes over the training part; 0 leaves the encoder as it is")
    batch_size: int = Field(32, ge=1)
    optimiser: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(3e-4, gt=0, description="learning rate of the last block of the encoder")
    head_lr: float = Field(1e-3, gt=0, description="learning rate of the new classification layer")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(0.01, ge=0)
    layer_decay: float = Field(1.0, gt=0, le=1, description="factor on the learning rate per block towards the input")
    freeze: float = Field(0.0, ge=0, le=1, description="share of the encoder's blocks, from the input, that stay fixed")
    lora_rank: int = Field(0, ge=0, description="train low-rank adapters of this rank instead of the weights; 0: off")
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = Field(0.1, ge=0, le=1, description="share of the steps with linearly rising learning rate")
    clip: float = Field(1.0, ge=0, description="largest norm of the gradient; 0: no clipping")
    accumulate: int = Field(1, ge=1, description="batches per optimiser step")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    dropout: float = Field(0.1, ge=0, lt=1, description="on the features, before the classification layer")
    batch_norm: Literal["train", "frozen"] = Field(
        "train", description="do batch-norm statistics follow the data in blocks that are trained?"
    )
    average: float = Field(0.0, ge=0, lt=1, description="decay of the moving average of the weights; 0: off")
    patience: int = Field(3, ge=0, description="epochs without better validation NLL before stopping; 0: never stop")
    keep: int = Field(2, ge=1, description="how many epoch checkpoints are kept")


class ImagePolicy(Section):
    """What happens to an image on its way into a batch: one warp, then brightness and contrast, then erasing."""

    rotate: float = Field(0.0, ge=0, le=180, description="largest angle in degrees, both directions")
    scale: float = Field(0.0, ge=0, lt=1, description="largest relative change of size, both directions")
    translate: float = Field(0.0, ge=0, le=1, description="largest shift as a share of the side, both directions")
    crop: float = Field(1.0, gt=0, le=1, description="side of a randomly placed crop as a share of the picture's side")
    flip_horizontal: Probability = Field(0.0, ge=0, le=1)
    flip_vertical: Probability = Field(0.0, ge=0, le=1)
    brightness: float = Field(0.0, ge=0, le=1, description="largest shift in units of full white")
    contrast: float = Field(0.0, ge=0, lt=1, description="largest relative change of contrast")
    erase: Probability = Field(
        0.0, ge=0, le=1, description="probability that a rectangle is replaced by noise-free grey"
    )
    erase_area: float = Field(0.2, gt=0, le=0.8, description="largest area of that rectangle as a share of the image")


IMAGE_POLICIES: dict[str, ImagePolicy] = {
    "none": ImagePolicy(),
    # Resize to 244, rotate by up to 15 degrees, crop 224 at random, flip both ways (arXiv 2505.06592).
    "paper": ImagePolicy(rotate=15, crop=224 / 244, flip_horizontal=0.5, flip_vertical=0.5),
    "light": ImagePolicy(rotate=7, scale=0.08, translate=0.04, brightness=0.1, contrast=0.1),
    "medium": ImagePolicy(
        rotate=15, scale=0.2, translate=0.08, flip_horizontal=0.5, brightness=0.2, contrast=0.25, erase=0.25
    ),
    # Nothing that changes the size of what is seen or its left and right: safe beside columns such as a pixel size.
    "scan": ImagePolicy(rotate=15, translate=0.06, brightness=0.15, contrast=0.2),
}


class TextPolicy(Section):
    """What happens to a text on its way into a batch. Special tokens are never touched."""

    drop: Probability = Field(0.1, ge=0, lt=1, description="probability that a token is left out")


class ColumnPolicy(Section):
    """What happens to table cells on their way into a batch."""

    corrupt: Probability = Field(
        0.2, ge=0, lt=1, description="probability that a cell takes another training row's value (SCARF)"
    )


class ImageConfig(Section):
    """Image inputs."""

    encoder: str = Field("auto", description="auto, builtin, efficientnet-lite0, a local folder, timm:NAME or a hub id")
    size: int = Field(224, ge=16, le=4096, description="side in pixels of what the encoder sees in training")
    encode_size: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="side in pixels for features and prediction; default: 1.15 x size, since random crops show objects "
        "larger in training than whole pictures do (FixRes, arXiv 1906.06423)",
    )
    margin: float = Field(
        1.1, ge=1, le=2, description="images are kept at this times the larger size, for a warp to sample from"
    )
    fit: Literal["stretch", "pad", "crop"] = Field(
        "stretch", description="how a picture that is not square becomes square"
    )
    background: int = Field(255, ge=0, le=255, description="grey value behind transparent pixels")
    spacing: str | None = Field(
        None, description="number column with the physical size of a pixel; images are resampled to one common spacing"
    )
    mean: tuple[float, float, float] | None = Field(None, description="replaces the backbone's own channel means")
    std: tuple[float, float, float] | None = Field(None, description="replaces the backbone's own channel deviations")
    augment: ImagePolicy | str = "medium"
    # Half of the blocks fixed: most of the gain of full fine-tuning at half of its time on a CPU.
    train: TrainConfig = TrainConfig(
        epochs=6,
        lr=4e-4,
        head_lr=5e-4,
        weight_decay=0.02,
        warmup=0.15,
        batch_norm="frozen",
        layer_decay=0.85,
        freeze=0.59,
        clip=5.0,
        label_smoothing=0.1,
        dropout=0.2,
        average=0.98,
    )

    @field_validator("augment")
    @classmethod
    def _known_policy(cls, value: ImagePolicy | str) -> ImagePolicy | str:
        if isinstance(value, str) and value not in IMAGE_POLICIES:
            raise ValueError(
                f"'{value}' is no policy{did_you_mean(value, IMAGE_POLICIES)}; known: {', '.join(IMAGE_POLICIES)}"
            )
        return value

    @property
    def encode_side(self) -> int:
        """Side in pixels of what the encoder sees when it encodes and predicts."""
        return self.encode_size or round(1.15 * self.size)

    @property
    def policy(self) -> ImagePolicy:
        """The augmentation policy, looked up where it is given by name."""
        return IMAGE_POLICIES[self.augment] if isinstance(self.augment, str) else self.augment


class TextConfig(Section):
    """Text inputs."""

    encoder: str = Field("auto", description="auto, builtin, all-MiniLM-L6-v2, a local folder or a hub id")
    max_tokens: int = Field(128, ge=4, le=8192, description="longer texts are cut; the report says how many")
    augment: TextPolicy = TextPolicy()
    train: TrainConfig = TrainConfig(epochs=3, lr=2e-5, head_lr=2e-4, layer_decay=0.9, label_smoothing=0.05)


class ColumnsConfig(Section):
    """Numbers, categories, booleans and dates, taken together as one modality."""

    encoder: Literal["mlp", "ft-transformer"] = "mlp"
    width: int = Field(64, ge=4, le=1024)
    augment: ColumnPolicy = ColumnPolicy()
    train: TrainConfig = TrainConfig(epochs=40, batch_size=128, lr=1e-3, head_lr=1e-3, patience=8)


class VectorConfig(Section):
    """Ready-made vectors."""

    encoder: Literal["identity", "mlp"] = "identity"
    width: int = Field(128, ge=4, le=4096)
    augment: ColumnPolicy = ColumnPolicy(corrupt=0.1)
    train: TrainConfig = TrainConfig(epochs=40, batch_size=64, lr=1e-3, head_lr=1e-3, patience=8)


class DataConfig(Section):
    """What is read from the table, and what happens to rows that cannot be used."""

    schema_file: str | None = Field(None, description="an edited schema.json that replaces the inferred one")
    class_weights: Literal["none", "balanced"] | dict[str, float] = "none"
    group_weights: Literal["equal", "none"] = Field(
        "equal", description="equal: every group (patient) counts alike when classifiers are fitted, however many rows"
    )
    unreadable: Literal["error", "mask"] = Field(
        "error", description="an image that cannot be read stops the run, or counts as absent in that row"
    )
    pixel_limit: int = Field(200_000_000, ge=1, description="images with more pixels are refused unread")

    @field_validator("class_weights", mode="before")
    @classmethod
    def _named_classes(cls, value: Any) -> Any:
        # YAML reads the class 0 as a number; classes go by their names everywhere.
        return {str(name): weight for name, weight in value.items()} if isinstance(value, Mapping) else value


class SplitConfig(Section):
    """How rows are divided into train, valid and test."""

    how: Literal["auto", "given", "stratified", "grouped", "time", "kfold"] = "auto"
    fractions: tuple[float, float, float] = Field((0.7, 0.15, 0.15), description="train, valid, test")
    time: str | None = Field(None, description="date or number column: the newest rows become the test part")
    folds: int = Field(5, ge=3, le=100, description="for kfold")
    fold: int = Field(0, ge=0, description="for kfold: which fold is the test part (the next one is valid)")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if abs(sum(self.fractions) - 1) > 1e-6 or min(self.fractions) <= 0:
            raise ValueError("fractions must be three positive numbers that sum to 1")
        if self.how == "time" and self.time is None:
            raise ValueError("how: time needs the column's name in split.time")
        if self.fold >= self.folds:
            raise ValueError(f"fold must be below folds ({self.folds})")
        return self


class CrossfitConfig(Section):
    """Whether the head sees outputs of encoders that never saw the row (arXiv 2111.02705 calls this stacking)."""

    how: Literal["off", "holdout", "k"] = "k"
    folds: int = Field(3, ge=2, le=20, description="for k")
    share: float = Field(0.25, gt=0, lt=1, description="for holdout: part of the training rows kept for the head")


class HeadConfig(Section):
    """The classifier on the concatenated features (stage M)."""

    kind: Literal["logistic", "ridge", "mlp", "gated", "bilinear"] = "logistic"
    inputs: Literal["features", "logits"] = Field(
        "features", description="what the head reads: encoder features, or each modality's own class scores"
    )
    pretrained: bool = Field(
        True, description="let the head also read each fine-tuned encoder as it was before fine-tuning"
    )
    penalties: tuple[float, ...] = Field(
        (1.0, 0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5), description="L2 path; the best validation NLL wins"
    )
    blockwise: bool = Field(False, description="also choose a penalty per modality, one modality at a time")
    modality_dropout: Probability = Field(
        0.15, ge=0, lt=1, description="weight of training rows with a random modality taken away"
    )
    epochs: int = Field(60, ge=1, description="for mlp, gated and bilinear")


class StoreConfig(Section):
    """Where encoded features are kept for reuse."""

    folder: str | None = Field(None, description="default: the user's cache folder")
    limit_gb: float = Field(20, gt=0, description="the oldest features go when the store grows beyond this")


class EvaluateConfig(Section):
    """How results are judged."""

    resamples: int = Field(2000, ge=100, description="bootstrap samples behind each interval")
    baselines: bool = Field(True, description="also fit the rows of the gain table that need extra encoding")


class Config(Section):
    """Everything that a run depends on besides the table.

    Build one with `Config.build(...)`, which understands recipes, files and `train.*` shorthands, or directly with
    keyword arguments.
    """

    recipe: Literal["sound", "fast", "paper"] = "sound"
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "32", "bf16"] = Field("auto", description="auto: bf16 on GPUs that have it, else 32")
    threads: int | None = Field(None, ge=1, description="CPU threads; default: all cores")
    allow_download: bool = Field(False, description="may weights be fetched from a model hub?")
    onnx: bool = Field(True, description="encode on CPU through ONNX Runtime where it is installed and agrees")
    views: int = Field(4, ge=1, description="augmented views per training row in the feature store")
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    image: ImageConfig = ImageConfig()
    text: TextConfig = TextConfig()
    columns: ColumnsConfig = ColumnsConfig()
    vector: VectorConfig = VectorConfig()
    crossfit: CrossfitConfig = CrossfitConfig()
    head: HeadConfig = HeadConfig()
    store: StoreConfig = StoreConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @classmethod
    def build(
        cls,
        *layers: Config | Mapping[str, Any] | str | Path | None,
        sets: Iterable[str] = (),
    ) -> Config:
        """Combine layers into a checked configuration; later layers win.

        Args:
            layers: Mappings, YAML files, ready configurations, or None (skipped).
            sets: `KEY=VALUE` strings such as `"image.train.epochs=3"`; values are read as YAML.

        Raises:
            ConfigError: Naming every unknown key and wrong value of all layers.
        """
        problems: list[str] = []
        given = [_as_mapping(layer) for layer in layers if layer is not None]
        given.append(_from_sets(sets, problems))
        recipe = next((layer["recipe"] for layer in reversed(given) if "recipe" in layer), "sound")
        # A complete configuration, such as a run's config.yaml, leaves a recipe nothing to decide.
        problems += [
            f"recipe: '{recipe}' is asked for beside a complete configuration of '{layer['recipe']}'"
            for layer in given
            if set(cls.model_fields) <= set(layer) and layer["recipe"] != recipe
        ]
        tree = cls().model_dump()
        for layer in [{"recipe": recipe}, RECIPES.get(str(recipe), {}), *given]:
            _merge(tree, _spread_train(layer, problems))
        try:
            config = cls.model_validate(tree)
        except ValidationError as error:
            problems += [_explain(item) for item in error.errors() if not _is_noise(item)]
        if problems:
            listing = "\n".join(f"  - {problem}" for problem in dict.fromkeys(problems))
            raise ConfigError(f"the configuration has {len(dict.fromkeys(problems))} problem(s):\n{listing}")
        return config

    def to_yaml(self) -> str:
        """Return the whole tree as YAML, readable by `Config.build`."""
        return yaml.dump(self.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


# A recipe is a layer between the defaults and what the user gives.
RECIPES: dict[str, dict[str, Any]] = {
    "sound": {},
    # Frozen encoders, one view: minutes instead of half an hour.
    "fast": {"train": {"epochs": 0}, "views": 1, "columns": {"train": {"epochs": 40}}},
    # The published settings (arXiv 2505.06592): SGD 5e-4, five epochs, CIFAR statistics, in-sample features.
    "paper": {
        "views": 1,
        "image": {
            "size": 224,
            "encode_size": 224,
            "margin": 244 / 224,
            "fit": "stretch",
            "augment": "paper",
            "mean": (0.507, 0.487, 0.441),
            "std": (0.267, 0.256, 0.276),
            "train": {
                "epochs": 5,
                "batch_size": 20,
                "optimiser": "sgd",
                "lr": 5e-4,
                "head_lr": 5e-4,
                "momentum": 0.9,
                "weight_decay": 0.0,
                "layer_decay": 1.0,
                "freeze": 0.0,
                "lora_rank": 0,
                "accumulate": 1,
                "label_smoothing": 0.0,
                "average": 0.0,
                "schedule": "constant",
                "warmup": 0.0,
                "clip": 0.0,
                "dropout": 0.0,
                "batch_norm": "train",
                "patience": 0,
            },
        },
        "crossfit": {"how": "off"},
        "head": {"pretrained": False},
    },
}


def _as_mapping(layer: Config | Mapping[str, Any] | str | Path) -> dict[str, Any]:
    if isinstance(layer, Config):
        return layer.model_dump(exclude_unset=True)
    if isinstance(layer, Mapping):
        return deepcopy(dict(layer))
    path = Path(layer)
    try:
        loaded = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(loaded or {}, dict):
        raise ConfigError(f"{path} must hold a mapping such as 'views: 4', not a {type(loaded).__name__}")
    return loaded or {}


def _from_sets(sets: Iterable[str], problems: list[str]) -> dict[str, Any]:
    layer: dict[str, Any] = {}
    for item in sets:
        key, sign, value = item.partition("=")
        if not sign or not key.strip():
            problems.append(f"--set {item}: write it as KEY=VALUE, for example --set train.epochs=3")
            continue
        *parents, last = key.strip().split(".")
        node = layer
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict):
            problems.append(f"--set {item}: '{parent}' was already set to a single value")
            continue
        try:
            node[last] = read_yaml(value)
        except yaml.YAMLError:
            problems.append(f"--set {item}: the value is not valid YAML; quote it, as in --set '{key}=\"text\"'")
    return layer


def _spread_train(layer: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Copy `train.*` of a layer to every kind, below what the layer says for that kind itself."""
    if "train" not in layer:
        return layer
    shared = layer["train"]
    rest = {key: value for key, value in layer.items() if key != "train"}
    if not isinstance(shared, Mapping):
        problems.append("train must be a mapping such as 'train: {epochs: 3}'")
        return rest
    known = TrainConfig.model_fields
    problems += [f"train.{key}: unknown setting{did_you_mean(key, known)}" for key in shared if key not in known]
    spread: dict[str, Any] = {kind: {"train": {k: v for k, v in shared.items() if k in known}} for kind in KINDS}
    _merge(spread, rest)
    return spread


def _merge(tree: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict) and key != "class_weights":
            _merge(tree[key], value)
        else:
            tree[key] = deepcopy(value)


def _is_noise(item: Any) -> bool:
    """Return whether an error is about the alternative that was not meant: 'must be a name', of a mapping."""
    alternative = str(item["loc"][-1]) if item["loc"] else ""
    if isinstance(item["input"], Mapping):
        return alternative == "str" or alternative.startswith("literal[")
    return alternative.startswith("dict[")


def _explain(item: Any) -> str:
    location = [str(part) for part in item["loc"] if part not in ("ImagePolicy", "str") and "[" not in str(part)]
    where = ".".join(location) or "configuration"
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown setting{did_you_mean(location[-1], _known_keys(location[:-1]))}"
    message = item["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(item["input"], dict) else f" (got {item['input']!r})"
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"


def _known_keys(path: list[str]) -> list[str]:
    node: type[BaseModel] | None = Config
    for part in path:
        annotation = node.model_fields[part].annotation if node and part in node.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        node = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    keys = list(node.model_fields) if node else []
    return [*keys, "train"] if node is Config else keys
