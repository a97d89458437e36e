"""What the documentation shows of `fusetune check` is what the command prints, but for names and numbers."""

from __future__ import annotations

import re
from pathlib import Path

from documents import ROOT, blocks
from PIL import Image
from planted import plain_table, squares, with_pictures
from typer.testing import CliRunner

from fusetune.cli import app

PRINTED = [
    block for page in sorted((ROOT / "docs").rglob("*.md")) for block in blocks(page, "text") if "(sure)" in block
]


def skeleton(printed: str) -> list[str]:
    """Return lines without numbers, names of columns and lists of rows."""
    printed = re.sub(r" \(rows .*| \.\.\.$", "", printed, flags=re.MULTILINE)
    lines = re.sub(r"'\w+'", "'X'", re.sub(r"\d+", "N", printed)).splitlines()
    return [re.sub(r"\bN pixels", "16 pixels", line).rstrip() for line in lines if line.strip()]


def test_findings_are_shown_as_they_are_printed(tmp_path: Path) -> None:
    frame = with_pictures(plain_table(60), tmp_path, "image").drop(columns="part")
    Image.fromarray(squares(1)[0]).resize((9, 9)).convert("RGB").save(tmp_path / "image-20.png")
    # Rows 0 and 1 are one patient: the same picture in another shape, and the same text.
    with Image.open(tmp_path / "image-0.png") as picture:
        picture.resize((72, 120)).save(tmp_path / "image-1.png")
    frame.loc[1, "note"] = frame.at[0, "note"]
    frame.to_csv(tmp_path / "t.csv", index=False)
    words = ["check", str(tmp_path / "t.csv"), "--label", "organ", "--group", "patient", "--inputs", "image,note"]
    printed = CliRunner().invoke(app, [*words, "--id", "id"]).output
    assert PRINTED
    for block in PRINTED:
        assert set(skeleton(block)) <= set(skeleton(printed)), f"{block}\n\n{printed}"
