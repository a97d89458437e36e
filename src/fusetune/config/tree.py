"""The typed configuration tree: every setting, its default and limits, and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from fusetune.config.checks import ACTIONS, DEFAULTS, Action
from fusetune.config.policy import (
    IMAGE_POLICIES,
    ColumnPolicy,
    FeaturePolicy,
    ImagePolicy,
    MixPolicy,
    Probability,
    Section,
    TextPolicy,
)
from fusetune.errors import did_you_mean

KINDS = ("image", "text", "columns", "vector")
# How a callable of one's own is named: `import:` says where it is, `given:` that it was passed from Python.
OWN = ("import:", "given:")


class LoopConfig(Section):
    """How any training loop runs: epochs, batches, optimiser, schedule, and when it ends."""

    epochs: int = Field(8, ge=0, description="passes over the training part; 0 leaves the encoder as it is")
    batch_size: int = Field(32, ge=1, description="rows per batch, each counted once")
    optimiser: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or SGD with momentum")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="of the learning rate, after the warm-up")
    warmup: float = Field(0.1, ge=0, le=1, description="share of the steps with linearly rising learning rate")
    clip: float = Field(1.0, ge=0, description="largest norm of the gradient; 0: no clipping")
    accumulate: int = Field(1, ge=1, description="batches per optimiser step")
    average: float = Field(0.0, ge=0, lt=1, description="decay of the moving average of the weights; 0: off")
    patience: int = Field(3, ge=0, description="epochs without better validation NLL before stopping; 0: never stop")


class StageConfig(LoopConfig):
    """A loop over freshly augmented inputs: views of each row, what is mixed, how many checkpoints are kept."""

    repeats: int = Field(1, ge=1, le=64, description="views of each row in its batch (arXiv 1901.09335)")
    mix: MixPolicy = MixPolicy()
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the label spread over all classes")
    keep: int = Field(2, ge=1, description="how many epoch checkpoints are kept")

    @model_validator(mode="after")
    def _has_partners(self) -> Self:
        if self.mix.kind != "off" and self.batch_size < 2:
            raise ValueError(
                f"mix.kind {self.mix.kind} mixes rows of a batch with each other: batch_size must be 2 or more, "
                "or mix.kind off"
            )
        return self


class EncoderConfig(Section):
    """How an encoder is fine-tuned, alone or with others: rates, decay, and which of its weights move."""

    lr: float = Field(3e-4, gt=0, description="learning rate of the last block of the encoder")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW, decoupled; of SGD, an L2 penalty")
    layer_decay: float = Field(1.0, gt=0, le=1, description="factor on the learning rate per block towards the input")
    freeze: float = Field(0.0, ge=0, le=1, description="share of the encoder's blocks, from the input, that stay fixed")
    lora_rank: int = Field(0, ge=0, description="train low-rank adapters of this rank instead of the weights; 0: off")
    dropout: float = Field(0.1, ge=0, lt=1, description="on the features, before the classification layer")
    batch_norm: Literal["train", "frozen"] = Field(
        "train", description="do batch-norm statistics follow the data in blocks that are trained?"
    )


class TrainConfig(StageConfig, EncoderConfig):
    """How one encoder is fine-tuned alone (stage U): the loop, and what moves in the encoder."""

    head_lr: float = Field(1e-3, gt=0, description="learning rate of the new classification layer")


def _no_pictures(train: TrainConfig) -> TrainConfig:
    if train.mix.kind == "cutmix":
        raise ValueError("mix.kind cutmix pastes rectangles of pictures, and there are none here; use mixup")
    return train


# Of inputs that are no pictures.
PlainTrainConfig = Annotated[TrainConfig, AfterValidator(_no_pictures)]


class SeveralConfig(Section):
    """Rows with several pictures, or several texts: what becomes of them."""

    pool: Literal["mean", "max", "attention"] = Field(
        "mean", description="the vector of a row from those of its elements; attention is trained with the encoder"
    )
    most: int = Field(
        4, ge=1, le=4096, description="elements of a row in a training batch: of more, some are drawn in each epoch"
    )


class ImageConfig(Section):
    """Image inputs."""

    encoder: str = Field("auto", description="auto, builtin, efficientnet-lite0, a local folder, timm:NAME or a hub id")
    size: int = Field(160, ge=16, le=4096, description="side in pixels of what the encoder sees in training")
    encode_size: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="side in pixels for features and prediction; default: 1.15 x size, since random crops show objects "
        "larger in training than whole pictures do (FixRes, arXiv 1906.06423); with image.spacing the same scale as in "
        "training",
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
    orientation: str | None = Field(
        None, description="column that tells left from right or which way is up: policies that flip are refused"
    )
    mean: tuple[float, float, float] | None = Field(None, description="replaces the backbone's own channel means")
    std: tuple[float, float, float] | None = Field(None, description="replaces the backbone's own channel deviations")
    # Of the policies compared at equal compute (docs/results.md) the one with the lowest validation NLL; and it never
    # flips, for a mirrored scan may be another finding.
    augment: ImagePolicy | str = Field(
        "light", description="a policy or its name, or import:package.module:name for a callable of your own"
    )
    several: SeveralConfig = SeveralConfig()
    # All blocks at a high rate and few pixels: on a CPU this reached lower NLL in the same time than half of the blocks
    # at 224 pixels (medpix2, hc18).
    train: TrainConfig = TrainConfig(
        epochs=10,
        lr=1e-3,
        head_lr=1e-3,
        weight_decay=0.02,
        warmup=0.15,
        batch_norm="frozen",
        layer_decay=0.9,
        clip=5.0,
        label_smoothing=0.1,
        dropout=0.2,
        average=0.98,
        patience=4,
    )

    @field_validator("augment")
    @classmethod
    def _known_policy(cls, value: ImagePolicy | str) -> ImagePolicy | str:
        if isinstance(value, str) and value not in IMAGE_POLICIES and not value.startswith(OWN):
            raise ValueError(
                f"'{value}' is no policy{did_you_mean(value, IMAGE_POLICIES)}; known: {', '.join(IMAGE_POLICIES)}"
            )
        return value

    @property
    def encode_side(self) -> int:
        """Side in pixels of what the encoder sees when it encodes and predicts."""
        if self.encode_size:
            return self.encode_size
        return round(1.15 * self.size if self.spacing is None else self.size / self.policy.crop)

    @property
    def policy(self) -> ImagePolicy:
        """The augmentation policy, looked up where it is given by name; a callable of one's own has none."""
        return IMAGE_POLICIES.get(self.augment, ImagePolicy()) if isinstance(self.augment, str) else self.augment


class TextConfig(Section):
    """Text inputs."""

    encoder: str = Field(
        "auto",
        description="auto, builtin, shallow, all-MiniLM-L6-v2, all-mpnet-base-v2, multilingual-e5-small, wordllama, a "
        "local folder or a hub id",
    )
    pooling: Literal["mean", "cls", "last", "flat"] = Field(
        "mean", description="one vector per text; last and flat (all positions) are for causal language models"
    )
    max_tokens: int = Field(128, ge=4, le=8192, description="longer texts are cut; the report says how many")
    train_vectors: bool = Field(
        False,
        description="let fine-tuning change the token vectors of a static encoder (wordllama, model2vec); "
        "text.train.lr=1e-3 suits them",
    )
    augment: TextPolicy = TextPolicy()
    words: bool = Field(
        True,
        description="let the head also read a classifier on the words themselves (TF-IDF), where that lowers its "
        "NLL on rows it has not seen; with crossfit.how=k",
    )
    several: SeveralConfig = SeveralConfig()
    train: PlainTrainConfig = TrainConfig(epochs=3, lr=2e-5, head_lr=2e-4, layer_decay=0.9, label_smoothing=0.05)


class ColumnsConfig(Section):
    """Numbers, categories, booleans and dates, taken together as one modality."""

    encoder: Literal["mlp", "ft-transformer"] = Field(
        "mlp", description="dense layers, or a transformer with a token per column (arXiv 2106.11959)"
    )
    width: int = Field(64, ge=4, le=1024, description="units of a layer, numbers of a token")
    augment: ColumnPolicy = ColumnPolicy()
    train: PlainTrainConfig = TrainConfig(epochs=40, batch_size=128, lr=1e-3, head_lr=1e-3, patience=8)


class VectorConfig(Section):
    """Ready-made vectors."""

    encoder: Literal["identity", "mlp"] = Field("identity", description="the vector as it is, or dense layers on it")
    width: int = Field(128, ge=4, le=4096, description="units of a layer, for mlp")
    augment: ColumnPolicy = ColumnPolicy(corrupt=0.1)
    train: PlainTrainConfig = TrainConfig(epochs=40, batch_size=64, lr=1e-3, head_lr=1e-3, patience=8)

    @field_validator("augment")
    @classmethod
    def _no_codes(cls, value: ColumnPolicy) -> ColumnPolicy:
        if value.missing:
            raise ValueError("missing must be 0: a number of a vector has no code for missing; use corrupt")
        return value


class DataConfig(Section):
    """What is read from the table, and what happens to rows that cannot be used."""

    schema_file: str | None = Field(None, description="an edited schema.json that replaces the inferred one")
    class_weights: Literal["none", "balanced"] | dict[str, float] = Field(
        "none", description="balanced: every class counts alike when classifiers are fitted; or a weight per class"
    )
    group_weights: Literal["equal", "none"] = Field(
        "equal", description="equal: every group (patient) counts alike when classifiers are fitted, however many rows"
    )
    unreadable: Literal["error", "mask"] = Field(
        "error", description="an image that cannot be read stops the run, or counts as absent in that row"
    )
    pixel_limit: int = Field(200_000_000, ge=1, description="images with more pixels are refused unread")
    outside: Literal["allow", "refuse"] = Field(
        "allow", description="images outside the table's folder, links followed; refuse: also every address"
    )
    workers: int | None = Field(None, ge=1, description="threads that read images; default: chosen, and said why")

    @field_validator("class_weights", mode="before")
    @classmethod
    def _named_classes(cls, value: Any) -> Any:
        # YAML reads the class 0 as a number; classes go by their names everywhere.
        return {str(name): weight for name, weight in value.items()} if isinstance(value, Mapping) else value


class SplitConfig(Section):
    """How rows are divided into train, valid and test."""

    how: Literal["auto", "given", "stratified", "grouped", "time", "kfold"] = Field(
        "auto", description="auto: as the split column says, else whole groups where there are some, else by class"
    )
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


class StrategyConfig(BaseModel):
    """Which strategy is fitted; beside its name stand settings of its own, which the strategy checks."""

    model_config = ConfigDict(extra="allow")

    name: str = Field("weighted-ensemble", description="see `fusetune show strategies`")
    level: Literal["encoders", "features"] = Field(
        "encoders",
        description="features: pictures and texts are read once by their pretrained encoders, and the strategy trains "
        "small networks on these vectors (settings `vector`): seconds instead of minutes",
    )


class CrossfitConfig(Section):
    """Whether the head sees outputs of encoders that never saw the row (arXiv 2111.02705 calls this stacking)."""

    how: Literal["off", "holdout", "k"] = Field(
        "k",
        description="k: every network leaves out one fold and stops by it, validation rows too; holdout: a part of "
        "the training rows is kept for the head; off: all training rows serve both",
    )
    folds: int = Field(3, ge=2, le=20, description="for k")
    share: float = Field(0.25, gt=0, lt=1, description="for holdout: part of the training rows kept for the head")


class HeadTrainConfig(LoopConfig):
    """How a head is trained that cannot be solved."""

    epochs: int = Field(60, ge=1, description="passes over the stored features")
    batch_size: int = Field(128, ge=1, description="rows per batch")
    warmup: float = Field(0.05, ge=0, le=1, description="share of the steps with linearly rising learning rate")
    patience: int = Field(12, ge=0, description="epochs without better validation NLL before stopping; 0: never stop")
    lr: float = Field(1e-2, gt=0, description="learning rate")
    weight_decay: float = Field(0.02, ge=0, description="of AdamW, decoupled; of SGD, an L2 penalty")


class HeadConfig(Section):
    """The classifier on the concatenated features (stage M)."""

    kind: Literal["logistic", "ridge", "mlp", "gated", "bilinear", "transformer"] = Field(
        "logistic", description="logistic and ridge are solved to convergence, the others are trained"
    )
    inputs: Literal["features", "logits"] = Field(
        "features", description="what the head reads: encoder features, or each modality's own class scores"
    )
    # Off: the cross-validated NLL was lower without it on medpix2 and hc18 (docs/results.md). Where fine-tuning does
    # not help, the head reads the encoder as it was in any case.
    pretrained: bool = Field(
        False, description="let the head also read each fine-tuned encoder as it was before fine-tuning"
    )
    penalties: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        (1.0, 0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5),
        min_length=1,
        description="L2 path; the best validation NLL wins; of several, where an end wins, it goes on beyond",
    )
    robust: bool = Field(
        False, description="of numbers: Huber's loss, which a few labels far from all others cannot dominate"
    )
    blockwise: bool = Field(False, description="also choose a penalty per modality, one modality at a time")
    modality_dropout: Probability = Field(
        0.15, ge=0, lt=1, description="weight of training rows with a random modality taken away"
    )
    train: HeadTrainConfig = Field(HeadTrainConfig(), description="for mlp, gated, bilinear and transformer")
    augment: FeaturePolicy = FeaturePolicy()
    mix: MixPolicy = Field(MixPolicy(), description="for mlp, gated, bilinear and transformer")

    @model_validator(mode="before")
    @classmethod
    def _former_place_of_epochs(cls, values: Any) -> Any:
        # Settings files and saved models from before trained heads had settings of their own say `head.epochs`.
        if isinstance(values, dict) and "epochs" in values:
            epochs = {"epochs": values["epochs"]}
            rest = {key: value for key, value in values.items() if key != "epochs"}
            return rest | {"train": dict(rest.get("train") or {}) | epochs}
        return values

    @model_validator(mode="after")
    def _possible_mix(self) -> Self:
        if self.mix.kind == "cutmix":
            raise ValueError("mix.kind cutmix pastes rectangles of pictures, and a head reads features; use mixup")
        if self.mix.kind != "off" and self.kind in ("logistic", "ridge"):
            raise ValueError(f"mix.kind {self.mix.kind} needs batches, and kind {self.kind} is solved without; use mlp")
        return self


class StoreConfig(Section):
    """Where encoded features are kept for reuse."""

    folder: str | None = Field(None, description="default: the user's cache folder")
    limit_gb: float = Field(20, gt=0, description="the oldest features go when the store grows beyond this")
    images: bool = Field(True, description="also keep decoded images there, so that the next run need not decode them")
    images_gb: float = Field(10, gt=0, description="the oldest images go when they take more than this")


class EvaluateConfig(Section):
    """How results are judged."""

    resamples: int = Field(2000, ge=100, description="bootstrap samples behind each interval")
    baselines: bool = Field(True, description="also fit the rows of the gain table that need extra encoding")
    test_views: int = Field(
        0, ge=0, le=64, description="random views of images and texts whose probabilities join the mean at prediction"
    )
    aim: str | dict[str, str] | None = Field(
        None,
        description="what thresholds are chosen for on validation rows. Of two classes and of labels: 'ppv >= 0.8'; "
        "of labels also 'f1' (the largest), 'even odds' or 'f1 where it helps' (the default), for all or by label: "
        "{arm: 'ppv >= 0.8'}",
    )
    positive: str | None = Field(None, description="with an aim of two classes: the positive one; default: the second")
    reference: int = Field(
        300,
        ge=0,
        le=5000,
        description="training rows whose features go with the model, to say of others how unlike; 0: none",
    )
    neighbours: bool = Field(
        False, description="let the ids of these rows go with the model, for Model.neighbours; ids may name people"
    )


class DoctorConfig(Section):
    """What is looked for before training, and what happens then."""

    check: bool = Field(True, description="examine the table before training")
    policy: dict[str, Action] = Field(DEFAULTS, description="per kind of finding: error, drop, mask or keep")

    @field_validator("policy")
    @classmethod
    def _possible(cls, value: dict[str, Action]) -> dict[str, Action]:
        for kind, action in value.items():
            if kind not in ACTIONS:
                raise ValueError(f"'{kind}' is no kind of finding{did_you_mean(kind, ACTIONS)}")
            if action not in ACTIONS[kind]:
                raise ValueError(f"'{action}' is not possible for {kind}; use {' or '.join(ACTIONS[kind])}")
        return {**DEFAULTS, **value}


class Tree(Section):
    """Everything that a run depends on besides the table."""

    preset: Literal["quick", "good", "best", "paper"] = Field(
        "good",
        description="quick: encoders as pretrained; good: fine-tuned where that pays; best: the same with more folds; "
        "paper: the published settings",
    )
    target: Literal["auto", "classification", "multilabel", "regression"] = Field(
        "auto",
        description="what the label is: one class of several, any number of labels (in a list, or with ; between them) "
        "or a number; auto: as its column looks, which is said",
    )
    minutes: float | None = Field(
        None,
        gt=0,
        description="how long a run may take: what would be too late is left out, and encoders are fine-tuned in fewer "
        "epochs; default: 3 for quick and 20 for good where several ways to fit are weighed, else no limit",
    )
    seed: int = Field(0, ge=0, description="of everything random: split, augmentation, first weights, order of rows")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: the first GPU, else the CPU")
    precision: Literal["auto", "32", "bf16", "64"] = Field(
        "auto", description="auto: bf16 on GPUs that have it, else 32; 64: encoders are trained in float64, to compare"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; default: all cores")
    allow_download: bool = Field(False, description="may weights be fetched from a model hub?")
    onnx: bool = Field(True, description="encode on CPU through ONNX Runtime where it is installed and agrees")
    tries: bool = Field(
        True, description="try what columns suggest (the size of a pixel, pictures with edges or stretched) beforehand"
    )
    redact: bool = Field(
        False,
        description="leave ids, texts, pictures and warnings that may quote them out of the report",
    )
    views: int = Field(4, ge=1, description="augmented views per training row in the feature store")
    track: Literal["none", "mlflow", "tensorboard"] = Field("none", description="who else is told how the run goes")
    track_to: str | None = Field(
        None,
        description="mlflow: its tracking address; default: mlflow.db beside the run's folder. tensorboard: a folder; "
        "default: tensorboard within the run's folder",
    )
    data: DataConfig = DataConfig()
    doctor: DoctorConfig = DoctorConfig()
    split: SplitConfig = SplitConfig()
    image: ImageConfig = ImageConfig()
    text: TextConfig = TextConfig()
    columns: ColumnsConfig = ColumnsConfig()
    vector: VectorConfig = VectorConfig()
    strategy: StrategyConfig = StrategyConfig()
    crossfit: CrossfitConfig = CrossfitConfig()
    head: HeadConfig = HeadConfig()
    store: StoreConfig = StoreConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _ids_in_one_way(self) -> Self:
        if self.redact and self.evaluate.neighbours:
            raise ValueError(
                "evaluate.neighbours keeps ids of rows in the model, and redact leaves them out; choose one"
            )
        return self
