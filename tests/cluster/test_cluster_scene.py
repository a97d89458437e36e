"""A job on a cluster of three nodes, of which one dies, with a worker that dies before; one run shows all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from _bad_clusters import SCENE, seen_in_scene
from _workshop import CannotTryError


@pytest.mark.cluster
def test_nothing_is_lost_or_doubled_when_a_worker_and_a_node_die(tmp_path: Path) -> None:
    """In a process of its own: Ray looks at addresses that tests may not touch, and leaves threads behind."""
    try:
        seen = seen_in_scene(tmp_path)
    except CannotTryError as error:
        pytest.skip(str(error))
    assert seen.keys() >= SCENE.keys()
    assert not {name: seen[name] for name, right in SCENE.items() if not right(seen[name])}
    assert "does not see" in seen["unseen"]
