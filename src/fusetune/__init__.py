"""Fine-tune each modality on its own, then fuse them: honest classifiers on images, text and table columns."""

from fusetune.api import Run, fit, guide, load
from fusetune.config import Config
from fusetune.contest import Contest, compare
from fusetune.estimator import FusionClassifier
from fusetune.guidance import Guidance
from fusetune.model import Model
from fusetune.version import VERSION as __version__

__all__ = [
    "Config",
    "Contest",
    "FusionClassifier",
    "Guidance",
    "Model",
    "Run",
    "__version__",
    "compare",
    "fit",
    "guide",
    "load",
]
