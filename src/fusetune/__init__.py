"""Fine-tune each modality on its own, then fuse them: honest classifiers on images, text and table columns."""

from fusetune.api import Run, fit, guide, load
from fusetune.config import Config
from fusetune.contest import Contest, compare
from fusetune.estimator import FusionClassifier
from fusetune.export import Exported, export_run
from fusetune.guidance import Guidance
from fusetune.model import Model
from fusetune.version import VERSION as __version__

__all__ = [
    "Config",
    "Contest",
    "Exported",
    "FusionClassifier",
    "Guidance",
    "Model",
    "Run",
    "__version__",
    "compare",
    "export_run",
    "fit",
    "guide",
    "load",
]
