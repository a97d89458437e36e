"""CVAT files: what is written is read again, and what is broken is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusetune.errors import UserError
from fusetune_papers.datasets.cvat import Box, Frame, read_cvat, write_cvat

FRAMES = [
    Frame(0, "frame_000000.png", 64, 37, (Box("arm", 1.0, 2.25, 30.0, 20.5),), {"Probe.orientation": "h"}),
    Frame(1, "frame_000001.png", 64, 37),
]


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    write_cvat(path, "a stream", FRAMES, "synthetic")
    read = read_cvat(path)
    assert list(read.frames) == FRAMES
    assert read.source == "synthetic"
    text = path.read_text("utf-8")
    assert text.index('id="1"') < text.index('id="0"'), "last frame first, as CVAT writes them"
    assert "<version>1.1</version>" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><image", r"annotations\.xml is broken or no XML file.*line 1"),
        ("<annotations></annotations>", "holds no annotated frames"),
        ('<other><image id="0" name="a" width="1" height="1"/></other>', "holds no annotated frames"),
        ('<annotations><image id="0" width="1" height="1"/></annotations>', "the frame 0 lacks the attribute 'name'"),
        (
            '<annotations><image id="0" name="a" width="1" height="1">'
            '<box label="arm" xtl="1" ytl="x" xbr="2" ybr="2"/></image></annotations>',
            "the frame a holds something else than a number",
        ),
        (
            '<annotations><image id="0" name="a" width="1" height="1"/><image id="1" name="a" width="1" height="1"/>'
            "</annotations>",
            "annotates a more than once",
        ),
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_cvat(path)
