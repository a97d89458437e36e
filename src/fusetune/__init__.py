"""Fine-tune each modality on its own, then fuse them: honest classifiers on images, text and table columns.

What this package offers is imported when it is first asked for (PEP 562), since PyTorch alone takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fusetune.version import VERSION as __version__

if TYPE_CHECKING:
    from fusetune.api import encode, fit, guide, load
    from fusetune.checking import check
    from fusetune.cluster.engine import Cluster
    from fusetune.config import Config
    from fusetune.contest import Contest, compare
    from fusetune.encoding import Encoded
    from fusetune.estimator import FusionClassifier, FusionRegressor
    from fusetune.export import Exported, export_run
    from fusetune.guidance import Guidance
    from fusetune.model import Model
    from fusetune.run import Run

__all__ = [
    "Cluster",
    "Config",
    "Contest",
    "Encoded",
    "Exported",
    "FusionClassifier",
    "FusionRegressor",
    "Guidance",
    "Model",
    "Run",
    "__version__",
    "check",
    "compare",
    "encode",
    "export_run",
    "fit",
    "guide",
    "load",
]
_HOMES = {
    "Cluster": "cluster.engine",
    "Config": "config",
    "Contest": "contest",
    "FusionClassifier": "estimator",
    "FusionRegressor": "estimator",
    "Encoded": "encoding",
    "Exported": "export",
    "export_run": "export",
    "Guidance": "guidance",
    "Model": "model",
    "Run": "run",
    "check": "checking",
    "compare": "contest",
    "encode": "api",
    "fit": "api",
    "guide": "api",
    "load": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
