"""Images that cannot be read, must not be read, or only look as if they could not."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from _workshop import ROWS, Fault, Workshop
from PIL import Image

FORMATS = ("jpeg", "png", "webp", "tiff")


def picture(form: str, side: int = 48, seed: int = 0) -> bytes:
    """Return the bytes of a small picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, form)
    return data.getvalue()


def bomb(side: int = 20_000) -> bytes:
    """Return a PNG of a few bytes whose header promises a picture of `side` x `side`."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def _page() -> bytes:
    """Return a page of PostScript, for which Pillow would start another program."""
    data = io.BytesIO()
    Image.new("RGB", (24, 24)).save(data, "EPS")
    return data.getvalue()


def _with(content: bytes) -> Callable[[Workshop], object]:
    return lambda shop: shop.fit_pictures(shop.changed("scan", str(shop.file(content, "broken.img")), 3))


def _one_pixel(shop: Workshop) -> None:
    assert _with(picture("png", 1))(shop)


def _some(shop: Workshop, *sets: str) -> None:
    broken = str(shop.file(b"no picture", "broken.png"))
    run = shop.fit_pictures(shop.changed("scan", broken, 3, 37, 44), *sets)
    assert any("3 unreadable image(s) in 'scan' count as absent: " in text for text in run.metrics["warnings"])


def _all(shop: Workshop, *sets: str) -> None:
    shop.fit_pictures(shop.frame.assign(scan=str(shop.file(b"no picture", "broken.png"))), *sets)


def _predicted(shop: Workshop) -> None:
    """At prediction the row is kept, marked, and told apart from rows without a picture."""
    frame = shop.changed("scan", str(shop.file(b"", "broken.png")), 3)
    told = shop.model().predict_table(frame)
    assert told["problem"].str.contains("broken.png: not an image").tolist() == [row == 3 for row in range(ROWS)]


def _confined(shop: Workshop, path: Callable[[Workshop], str], *sets: str) -> None:
    """Train from a table in a folder of its own, whose fourth picture is somewhere else."""
    pictures = {f"in/{row}.png": Path(name).read_bytes() for row, name in enumerate(shop.frame["scan"])}
    for name, content in pictures.items():
        shop.file(content, name)
    frame = shop.frame.assign(scan=[f"{row}.png" for row in range(ROWS)])
    frame.loc[3, "scan"] = path(shop)
    shop.fit_pictures(shop.file(shop.csv(frame), "in/table.csv"), *sets)


def _beside(shop: Workshop) -> str:
    shop.file(picture("png"), "secret.png")
    return "../secret.png"


def _link(shop: Workshop) -> str:
    (shop.folder / "in" / "link.png").symlink_to(shop.file(picture("png"), "secret.png"))
    return "link.png"


def _link_inside(shop: Workshop) -> str:
    (shop.folder / "in" / "link.png").symlink_to("5.png")
    return "link.png"


def _pipe(shop: Workshop) -> str:
    os.mkfifo(shop.folder / "in" / "pipe.png")
    return "pipe.png"


def _endless(address: str, shop: Workshop) -> None:
    _confined(shop, lambda _: address)


def _stranger(shop: Workshop) -> None:
    """A confined model reads nothing outside the folder of a table that somebody sent."""
    frame = pd.DataFrame({**shop.frame.iloc[:2].to_dict("list"), "scan": ["a.png", "../secret.png"]})
    shop.file(picture("png"), "in/a.png")
    shop.file(picture("png"), "secret.png")
    table = shop.file(shop.csv(frame), "in/table.csv")
    told = shop.model().confined().predict_table(table)["problem"]
    assert told[0] == ""
    assert "secret.png: it is outside the table's folder" in told[1]
    assert shop.model().predict_table(table)["problem"].tolist() == ["", ""]


_REFUSE = "data.outside=refuse"
_MEND = "Repair the files or empty the cells; data.unreadable=mask"
_OUTSIDE = f"row case-3: .*outside the table's folder.*{_MEND}"

IMAGES = [
    Fault("image of 0 bytes", "in training", _with(b""), f"row case-3: .*broken.img: not an image.*{_MEND}"),
    Fault("image of 0 bytes", "at prediction", _predicted),
    *(
        Fault("image cut short", form, _with(picture(form)[:1500]), f"row case-3: .*broken.img: damaged image.*{_MEND}")
        for form in FORMATS
    ),
    Fault("image of 1 x 1 pixel", "png", _one_pixel),
    Fault("image of 20,000 x 20,000", "png", _with(bomb()), f"row case-3: .*20,000 x 20,000 pixels are more.*{_MEND}"),
    Fault("images unreadable", "some", _some, r"3 image\(s\).*row case-3: .*row case-37: .*row case-44: .*" + _MEND),
    Fault("images unreadable", "some, masked", lambda s: _some(s, "data.unreadable=mask")),
    Fault("images unreadable", "all", _all, r"48 image\(s\).*row case-0: .*and 38 more.*" + _MEND),
    Fault(
        "images unreadable",
        "all, masked",
        lambda s: _all(s, "data.unreadable=mask"),
        "'scan' is empty in every row; leave it out",
    ),
    Fault("file outside the folder", "climbing path", lambda s: _confined(s, _beside, _REFUSE), _OUTSIDE),
    Fault("file outside the folder", "climbing path, allowed", lambda s: _confined(s, _beside)),
    Fault(
        "file outside the folder",
        "absolute path",
        lambda s: _confined(s, lambda s: s.frame["scan"][3], _REFUSE),
        _OUTSIDE,
    ),
    Fault("file outside the folder", "link", lambda s: _confined(s, _link, _REFUSE), _OUTSIDE),
    Fault("file outside the folder", "link that stays inside", lambda s: _confined(s, _link_inside, _REFUSE)),
    Fault("file outside the folder", "table of a stranger", _stranger),
    Fault(
        "address",
        "where only files may be read",
        lambda s: _confined(s, lambda _: "memory://a/b.png", _REFUSE),
        "row case-3: .*it is an address",
    ),
    Fault(
        "address",
        "that needs a network",
        lambda s: _confined(s, lambda _: "https://example.invalid/a.png"),
        "row case-3: .*needs a network; set allow_download",
    ),
    Fault(
        "no ordinary file",
        "endless device",
        lambda s: _confined(s, lambda _: "/dev/zero"),
        "row case-3: .*a device or a pipe",
    ),
    *(
        Fault(
            "no ordinary file",
            f"endless device, {address}",
            partial(_endless, address),
            "row case-3: .*(device|pipe|file)",
        )
        for address in ("local:///dev/zero", "file:///dev/zero")
    ),
    Fault("PostScript", "under the name of a picture", _with(_page()), f"row case-3: .*not an image.*{_MEND}"),
    Fault("no ordinary file", "pipe", lambda s: _confined(s, _pipe), "row case-3: .*a device or a pipe"),
    Fault("no ordinary file", "folder", lambda s: _confined(s, lambda _: "../in"), "row case-3: .*it is a folder"),
]
