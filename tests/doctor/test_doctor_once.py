"""A run decodes each picture once: what the doctor decodes is kept for it, and nothing anybody sees depends on that."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from planted import LIMIT, plain_table
from tiny import settings, tiny_table

import fusetune
from fusetune.data import images
from fusetune.data.cache import PixelCache
from fusetune.data.decode import opened
from fusetune.data.images import ImageInput, Keeper, Reading
from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.stored import Encoded
from fusetune.data.table import Table
from fusetune.doctor.examine import Examination, examine


def photo(width: int, height: int, kind: str, seed: int = 0, mode: str = "RGB") -> bytes:
    cells = np.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, 4), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(cells, "RGBA").resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(file, kind)
    return file.getvalue()


# Name -> content, and whether squares of 35 pixels and the doctor's of 72 are made from the same decoded pixels.
FILES = {
    "a.png": (photo(90, 70, "PNG"), True),
    "large.png": (photo(700, 600, "PNG", 1), True),
    "large.jpg": (photo(700, 600, "JPEG", 2), True),  # both at an eighth
    "middle.jpg": (photo(200, 190, "JPEG", 3), False),  # the one at a half, the other at a quarter
    "small.jpg": (photo(60, 50, "JPEG", 4), True),  # both whole
    "print.jpg": (photo(700, 600, "JPEG", 5, "CMYK"), True),
    "grey.tif": (photo(90, 70, "TIFF", 6, "L"), True),
    "clear.png": (photo(90, 70, "PNG", 7, "RGBA"), True),
}


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """Count how often the content of each file is decoded."""
    counts: Counter[bytes] = Counter()
    load = images.load_pixels

    def counting(picture: Any, encoded: Encoded, *more: Any) -> Any:
        counts[encoded.content] += 1
        return load(picture, encoded, *more)

    monkeypatch.setattr(images, "load_pixels", counting)
    return counts


def looked(root: Path, keeper: Keeper | None) -> Examination:
    frame = plain_table(len(FILES)).assign(scan=list(FILES))
    table = Table(frame, "t", root)
    return examine(
        table, infer_schema(table, Roles("organ", inputs=["scan"], row_id="id")), pixel_limit=LIMIT * 5, keeper=keeper
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, (data, _) in FILES.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def pixels_at(data: bytes, least: int) -> Any:
    with opened(Encoded(data), LIMIT * 5) as picture:
        return images.load_pixels(picture, Encoded(data), (least, least), 255)


@pytest.mark.parametrize("size", [35, 72, 150])
@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_what_is_kept_is_what_the_run_would_make(size: int, fit: Any, root: Path) -> None:
    run = ImageInput(column="scan", size=size, fit=fit)
    looked(root, Keeper(run, PixelCache(root / "cache", size, 1)))
    cache = PixelCache(root / "cache", size, 1)
    for name, (data, shared) in FILES.items():
        square = cache.get(run.digest(Encoded(data), float("nan")))
        assert (square is not None) == np.array_equal(pixels_at(data, size), pixels_at(data, 72)), name
        assert size != 35 or (square is not None) == shared, name
        assert square is None or np.array_equal(square, run.square(Encoded(data))), name


def test_another_background_is_another_decoding(root: Path) -> None:
    run = ImageInput(column="scan", size=35, fit="stretch", background=0)
    looked(root, Keeper(run, PixelCache(root / "cache", 35, 1)))
    assert not (root / "cache").exists()


def test_findings_and_thumbnails_do_not_depend_on_what_is_kept(root: Path) -> None:
    run = ImageInput(column="scan", size=35, fit="crop")
    plain, keeping = looked(root, None), looked(root, Keeper(run, PixelCache(root / "cache", 35, 1)))
    assert [f.as_dict() for f in plain.findings] == [f.as_dict() for f in keeping.findings]
    assert np.array_equal(plain.pictures[0].pixels, keeping.pictures[0].pixels)
    assert np.array_equal(plain.pictures[0].hashes, keeping.pictures[0].hashes)
    assert np.array_equal(plain.pictures[0].thumbs, keeping.pictures[0].thumbs)


def test_a_check_alone_keeps_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PixelCache, "put", lambda *_: pytest.fail("a check has no use for whole pictures"))
    counts = counted(monkeypatch)
    assert looked(root, None).pictures[0].usable.all()
    assert set(counts.values()) == {1}


def test_a_source_finds_what_the_doctor_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ImageInput(column="scan", size=35, fit="stretch")
    looked(root, Keeper(run, PixelCache(root / "cache", 35, 1)))
    counts = counted(monkeypatch)
    table = Table(pd.DataFrame({"scan": list(FILES)}), "t", root)
    source = run.bind(table, Reading(cache=root / "cache", cache_gb=1))
    assert counts == {data: 1 for data, shared in FILES.values() if not shared}
    assert f"{sum(shared for _, shared in FILES.values())} of them decoded before" in source.describe()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("data")
    frame = tiny_table(folder)
    for row, name in enumerate(FILES):
        (folder / name).write_bytes(FILES[name][0])
        frame.loc[row, "scan"] = name
    return frame.assign(scan=[str(folder / name) for name in frame["scan"]])


def run(frame: pd.DataFrame, folder: Path, **more: Any) -> pd.DataFrame:
    short = settings(folder / "store", train__epochs=0, views=1, evaluate__baselines=False, **more)
    fitted = fusetune.fit(
        frame, "organ", inputs=["scan"], split="part", group="patient", config=short, out=folder / "run", quiet=True
    )
    return pd.read_parquet(fitted.folder / "predictions.parquet")


def test_a_run_decodes_each_picture_once(tiny: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = counted(monkeypatch)
    predictions = run(tiny, tmp_path)
    contents = [Path(path).read_bytes() for path in tiny["scan"]]
    twice = {data for data, shared in FILES.values() if not shared}
    assert counts == {data: 1 + (data in twice) for data in contents}
    counts.clear()
    without = run(tiny, tmp_path / "unchecked", doctor__check=False)
    assert counts == dict.fromkeys(contents, 1)
    uncached = run(tiny, tmp_path / "uncached", store__images=False)
    for other in (without, uncached):
        pd.testing.assert_frame_equal(other, predictions, check_exact=True)
