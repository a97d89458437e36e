"""SYNTHETIC ultrasound video streams in the layout of FPUS23, for trying out and testing what that data is used for.

The real frames cannot be had everywhere. These stand in: 39 streams with the published names, frames that show (or do
not show) head, abdomen, arms and legs, CVAT annotations, and a short sentence per frame. What makes the real data
treacherous is built in: frames that follow each other are nearly the same picture, every stream has its own gain,
speckle, layout and surroundings, and a stream's name says much about its labels.

Nothing here says anything about real ultrasound. Everything is marked synthetic: the folder's README, the
annotation files, each picture's corner, and the column `source` of the table made from it.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from fusetune.errors import UserError
from fusetune.files import written_aside
from fusetune.progress import bar, console
from fusetune_papers.datasets.cvat import Frame, write_cvat
from fusetune_papers.datasets.fpus23 import SENTENCES
from fusetune_papers.datasets.streams import LOCATIONS, SEEN, Stream, read_stream, stream_names
from fusetune_papers.phantom.film import Film
from fusetune_papers.phantom.knobs import Knobs
from fusetune_papers.phantom.script import write_script
from fusetune_papers.phantom.ultrasound import Sector

SOURCE = "synthetic"
TITLE = "SYNTHETIC ultrasound frames, drawn by fusetune"
README = "README.txt"
ABOUT = """
No patient, no phantom and no ultrasound machine was involved. The folder has the layout of the data set FPUS23, so
that whatever reads that data can be tried out and tested; results on it say nothing about real ultrasound.

four_poses/<stream>/frame_<number>.png    the frames
annotation/<stream>/annotations.xml       boxes and tags, CVAT for images 1.1; meta/source says "synthetic"
{sentences}                             one made-up sentence per frame

Make a table of it:  fusetune data fpus23 FOLDER --out table.parquet

Settings:
{settings}
"""


def write_phantom(out: Path, knobs: Knobs | None = None) -> Path:
    """Draw the streams and write the folder, whole or not at all.

    Args:
        out: The folder to make. One made earlier with the same settings is used again.
        knobs: Settings.

    Returns:
        `out`.

    Raises:
        UserError: Something else is there.
    """
    out, knobs = Path(out), knobs or Knobs()
    readme = TITLE + "\n" + ABOUT.format(sentences=SENTENCES, settings=json.dumps(asdict(knobs), indent=1))
    if _finished(out, readme):
        console.print(f"Using the synthetic frames already in {out}", markup=False, soft_wrap=True)
        return out
    with written_aside(out) as aside:
        _write_streams(aside, [read_stream(name) for name in chosen_streams(knobs.streams)], knobs)
        (aside / README).write_text(readme, encoding="utf-8")
    return out


def chosen_streams(count: int) -> list[str]:
    """Return the names of `count` streams that take turns in location, pose and probe orientation, sorted."""
    turns: dict[str, list[str]] = {place: [] for place in LOCATIONS}
    for name in stream_names():
        turns[read_stream(name).location].append(name)
    # Steps of three through a list of 7 or 8, and another start for each location, so that poses take turns as well.
    order = [
        (turn, names[(3 * turn + 2 * place) % len(names)])
        for place, names in enumerate(turns.values())
        for turn in range(len(names))
    ]
    return sorted(name for _, name in sorted(order, key=lambda pair: pair[0])[:count])


def _write_streams(folder: Path, streams: list[Stream], knobs: Knobs) -> None:
    sector = Sector(knobs.width)
    mark = _mark(sector)
    sentences = [("id", "text")]
    with bar("Drawing frames", len(streams) * knobs.frames) as progress:
        for stream in streams:
            script = write_script(stream, knobs)
            film = Film(stream, script, knobs, sector)
            pictures = folder / "four_poses" / stream.name
            pictures.mkdir(parents=True)
            frames = []
            for number in range(knobs.frames):
                picture, boxes = film.frame(number)
                name = f"frame_{number:06}.png"
                Image.fromarray(np.maximum(picture, mark)).save(pictures / name, compress_level=1)
                frames.append(Frame(number, name, sector.width, sector.height, boxes, _tags(stream)))
                sentences.append((f"{stream.name}/{name.removesuffix('.png')}", script.sentences[number]))
                progress.advance()
            notes = folder / "annotation" / stream.name
            notes.mkdir(parents=True)
            write_cvat(notes / "annotations.xml", stream.name, frames, SOURCE)
    with (folder / SENTENCES).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(sentences)


def _tags(stream: Stream) -> dict[str, str]:
    tags = {"Orientation.Pose": stream.pose, "Probe.orientation": stream.probe}
    return {**tags, "location.View_fetus": SEEN[stream.location]} if SEEN[stream.location] else tags


def _mark(sector: Sector) -> npt.NDArray[np.uint8]:
    """Return a picture that is black but for the word SYNTHETIC in a corner outside the sector."""
    mark = Image.new("L", (sector.width, sector.height))
    ImageDraw.Draw(mark).text((2, 1), "SYNTHETIC", fill=150, font_size=max(8, round(sector.width / 23)))
    return np.asarray(mark)


def _finished(out: Path, readme: str) -> bool:
    """Say whether `out` is the result of an earlier call with these settings.

    Raises:
        UserError: There is something else, which stays as it is.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if (out / README).is_file() and (out / README).read_text("utf-8", "replace") == readme:
        return True
    raise UserError(f"{out} exists and was not made with these settings, so it stays as it is; name another folder")
