"""Whether all nodes of a cluster are alike: the same versions, the same files under the same paths."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fusetune.errors import UserError, listed
from fusetune.files import file_hash
from fusetune.version import VERSION

# Another version of one of these may give other pixels, tokens or digits.
PACKAGES = (
    "ray", "torch", "numpy", "pandas", "pyarrow", "transformers", "tokenizers", "onnxruntime", "onnx", "pillow",
    "opencv-python-headless", "simplejpeg", "pydicom", "timm", "peft", "efficientnet-lite-pytorch",
)  # fmt: skip


def facts_here(files: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Return what this machine has: versions by package, and a hash of each file."""
    return {"versions": _versions(), "files": {str(path): _hash(path) for path in files}}


def refuse_unlike(here: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse nodes that differ from this machine.

    Args:
        here: What `facts_here` says of this machine.
        nodes: The same of each node, by its address.

    Raises:
        UserError: Naming the nodes, what differs, and the remedy.
    """
    lines = []
    for node, there in nodes.items():
        pairs = [(name, mine, there["versions"].get(name, "not installed")) for name, mine in here["versions"].items()]
        other = [f"{name} {theirs} (here {mine})" for name, mine, theirs in pairs if mine != theirs]
        if other:
            lines.append(f"node {node} has {listed(other)}; install what is here there too, or use one image for all")
        unseen = [path for path, mine in here["files"].items() if there["files"].get(path) != mine]
        if unseen:
            lines.append(
                f"node {node} does not see {listed(unseen)} as it is here: the table's pictures, the model and the "
                "folder of --out must be on storage that all nodes share under the same path"
            )
    if lines:
        raise UserError("the nodes of the cluster are not alike:" + "".join(f"\n  - {line}" for line in lines))


def _hash(path: Path) -> str:
    try:
        return file_hash(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


@cache
def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "fusetune": f"{VERSION} ({_source()})", **_installed()}


def _installed() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _source() -> str:
    """Return a hash of the library's own files: a version under development has many states."""
    home, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(home.rglob("*.py")):
        digest.update(file.relative_to(home).as_posix().encode() + file.read_bytes())
    return f"source {digest.hexdigest()[:8]}"
