"""One typed configuration tree (`tree`, `policy`), presets for it (`presets`), and how layers combine (`layers`)."""

from fusetune.config.layers import Config, parse_layer, read_layer
from fusetune.config.names import IMPORT, OR_OWN, STRATEGY_NAMES, unknown_strategies
from fusetune.config.policy import (
    IMAGE_POLICIES,
    ColumnPolicy,
    FeaturePolicy,
    ImagePolicy,
    MixPolicy,
    Section,
    TextPolicy,
)
from fusetune.config.presets import MINUTES, PRESETS
from fusetune.config.tree import (
    KINDS,
    EncoderConfig,
    HeadConfig,
    HeadTrainConfig,
    LoopConfig,
    SeveralConfig,
    StageConfig,
    StrategyConfig,
    TrainConfig,
    Tree,
)
from fusetune.config.yaml12 import read_yaml

__all__ = [
    "IMAGE_POLICIES",
    "IMPORT",
    "KINDS",
    "MINUTES",
    "OR_OWN",
    "PRESETS",
    "STRATEGY_NAMES",
    "ColumnPolicy",
    "Config",
    "EncoderConfig",
    "FeaturePolicy",
    "HeadConfig",
    "HeadTrainConfig",
    "ImagePolicy",
    "LoopConfig",
    "MixPolicy",
    "Section",
    "SeveralConfig",
    "StageConfig",
    "StrategyConfig",
    "TextPolicy",
    "TrainConfig",
    "Tree",
    "parse_layer",
    "read_layer",
    "read_yaml",
    "unknown_strategies",
]
