"""Pictures that show something else than their files say, or take what they must not: kind 12."""

from __future__ import annotations

import io
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
from _fuzz_pictures import _chunk, _dicom
from _kinds import Case, Loud, bounded, need, told_by
from _workshop import Workshop
from PIL import Image

from fusetune.data.images import ImageInput

# Kind 12: pixels.

_SIDE = 16
_RAMP = np.arange(_SIDE * _SIDE, dtype=np.uint8).reshape(_SIDE, _SIDE)


def _decoded(content: bytes, name: str, shop: Workshop, **more: Any) -> Any:
    shop.file(content, name.partition("#")[0])
    reader = ImageInput(column="scan", size=_SIDE, fit="stretch", **more)
    return reader.square(reader.fetch(name, shop.folder))


def _shows(content: Callable[[], bytes], right: Callable[[], Any], shop: Workshop, within: int = 1) -> str:
    """A file shows these pixels, or is said to be unreadable."""
    seen, wanted = _decoded(content(), "x.img", shop).astype(int), np.asarray(right()).astype(int)
    wanted = np.repeat(wanted[..., None], 3, axis=2) if wanted.ndim == 2 else wanted
    worst = np.abs(seen - wanted).max()
    return need(
        worst <= within, f"pixels are wrong by up to {worst}, such as {seen[5, 5].tolist()} for {wanted[5, 5].tolist()}"
    )


def _tiff(pixels: Any, photometric: int, bits: int, samples: int = 1, extra: int | None = None) -> bytes:
    """Write a plain TIFF of one strip."""
    data = np.ascontiguousarray(pixels).tobytes() if bits != 1 else np.packbits(pixels, axis=1).tobytes()
    tags = [(256, 3, [_SIDE]), (257, 3, [_SIDE]), (258, 3, [bits] * samples), (259, 3, [1]), (262, 3, [photometric])]
    tags += [(273, 4, [0]), (277, 3, [samples]), (278, 3, [_SIDE]), (279, 4, [len(data)])]
    tags += [(338, 3, [extra])] if extra is not None else []
    tags += [(320, 3, [int(v) * 257 for v in np.tile(np.arange(256)[::-1], 3)])] if photometric == 3 else []
    tags.sort()
    place, behind = 8 + 2 + 12 * len(tags) + 4, b""
    entries: list[tuple[int, int, int, bytes]] = []
    for tag, kind, values in tags:
        size = {3: 2, 4: 4}[kind]
        packed = b"".join(struct.pack("<H" if kind == 3 else "<I", v) for v in values)
        if size * len(values) > 4:
            entries.append((tag, kind, len(values), struct.pack("<I", place + len(behind))))
            behind += packed
        else:
            entries.append((tag, kind, len(values), packed.ljust(4, b"\0")))
    start = place + len(behind)
    body = b"".join(
        struct.pack("<HHI", tag, kind, count) + (struct.pack("<I", start) if tag == 273 else value)
        for tag, kind, count, value in entries
    )
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + body + b"\0\0\0\0" + behind + data


_BIT = (_RAMP > 99).astype(np.uint8)
_COLOURS = np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
_ALPHA = np.where(np.arange(_SIDE)[:, None] < 8, 255, 0) * np.ones((_SIDE, _SIDE), dtype=int)
_BEHIND = np.where(_ALPHA[..., None] == 255, _COLOURS, 255)
_DEEP = _COLOURS.astype("<u2") * 257


def _with_alpha(colours: Any, alpha: Any) -> Any:
    return np.concatenate([colours, alpha[..., None].astype(colours.dtype)], axis=2)


_TIFFS: dict[str, tuple[Callable[[], bytes], Callable[[], Any]]] = {
    "white is 0, 1 bit": (lambda: _tiff(_BIT, 0, 1), lambda: 255 - 255 * _BIT),
    "black is 0, 1 bit": (lambda: _tiff(_BIT, 1, 1), lambda: 255 * _BIT),
    "white is 0, 8 bits": (lambda: _tiff(_RAMP, 0, 8), lambda: 255 - _RAMP),
    "black is 0, 8 bits": (lambda: _tiff(_RAMP, 1, 8), lambda: _RAMP),
    "white is 0, 16 bits": (lambda: _tiff(_RAMP.astype("<u2") * 257, 0, 16), lambda: 255 - _RAMP),
    "black is 0, 16 bits": (lambda: _tiff(_RAMP.astype("<u2") * 257, 1, 16), lambda: _RAMP),
    "palette": (lambda: _tiff(_RAMP, 3, 8), lambda: 255 - _RAMP),
    "colours, 8 bits": (lambda: _tiff(_COLOURS, 2, 8, 3), lambda: _COLOURS),
    "colours, 16 bits": (lambda: _tiff(_DEEP, 2, 16, 3), lambda: _COLOURS),
    "colours and alpha, 8 bits": (lambda: _tiff(_with_alpha(_COLOURS, _ALPHA), 2, 8, 4, 2), lambda: _BEHIND),
    "colours and alpha, 16 bits": (lambda: _tiff(_with_alpha(_DEEP, _ALPHA * 257), 2, 16, 4, 2), lambda: _BEHIND),
    "colours times alpha, 8 bits": (
        lambda: _tiff(_with_alpha(_COLOURS * (_ALPHA[..., None] > 0).astype(np.uint8), _ALPHA), 2, 8, 4, 1),
        lambda: _BEHIND,
    ),
    "colours and something else": (lambda: _tiff(_with_alpha(_COLOURS, _ALPHA), 2, 8, 4, 0), lambda: _COLOURS),
    "CMYK": (lambda: _tiff(_with_alpha(255 - _COLOURS, 0 * _ALPHA), 5, 8, 4), lambda: _COLOURS),
}


def _bmp() -> bytes:
    """Write a BMP of 32 bits whose header names an alpha mask, and whose alpha is zero everywhere."""
    rows: bytes = _with_alpha(_COLOURS[..., ::-1], 0 * _ALPHA)[::-1].astype(np.uint8).tobytes()
    head = struct.pack("<IiiHHIIiiII", 108, _SIDE, _SIDE, 1, 32, 3, len(rows), 0, 0, 0, 0)
    head += struct.pack("<IIIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, 0x73524742) + bytes(48)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(rows), 0, 0, 14 + len(head)) + head + rows


def _dicom_bytes(**more: Any) -> bytes:
    stream = io.BytesIO()
    _dicom(**more).save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _not_flat(more: dict[str, Any], shop: Workshop) -> str:
    seen = _decoded(_dicom_bytes(**more), "x.dcm", shop)
    return need(seen.min() < seen.max(), f"every pixel is {seen.min()}")


def _several(form: str, shop: Workshop) -> str:
    """A file of two pages, of which the first one is white: which page is read is said, or can be chosen."""
    white = Image.new("RGB", (24, 24), "white")
    names = []
    for row, name in enumerate(shop.frame["scan"]):
        names.append(str(shop.folder / f"{row}.{form.lower()}"))
        white.save(names[-1], form, save_all=True, append_images=[Image.open(name)])
    run = shop.fit(shop.frame.assign(scan=names), inputs=["scan"], sets=["doctor.check=false"])
    said = told_by(run)
    if "frames" in said or "pages" in said:
        raise Loud(run.metrics["warnings"][0])
    return "the first page of every file, and not a word"


def _program(shop: Workshop) -> str:
    """A page of PostScript under the name of a picture starts no other program."""
    content = io.BytesIO()
    Image.fromarray(_COLOURS).save(content, "EPS")
    with patch.object(subprocess, "Popen", side_effect=AssertionError("another program is started")) as started:
        try:
            _decoded(content.getvalue(), "x.png", shop)
        finally:
            assert not started.called, "another program is started"
    return "a page of PostScript is read as a picture"


def _bomb(content: Callable[[], bytes], name: str, shop: Workshop) -> str:
    """A small file that holds a huge picture is refused, before it is unpacked."""
    made = content()
    with bounded(150):
        _decoded(made, name, shop, pixel_limit=1_000_000)
    return "read, whatever its size"


def _icon() -> bytes:
    side = 20_000
    rows = zlib.compressobj(9)
    raw = b"".join(rows.compress(bytes(side // 8 + 1)) for _ in range(side)) + rows.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, [(b"IHDR", head), (b"IDAT", raw), (b"IEND", b"")]))
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(png), 22) + png


def _jpeg_in_dicom() -> bytes:
    from pydicom.encaps import encapsulate  # noqa: PLC0415
    from pydicom.uid import JPEGBaseline8Bit  # noqa: PLC0415

    stream = io.BytesIO()
    Image.new("L", (12_000, 12_000)).save(stream, "JPEG")
    return _dicom_bytes(syntax=JPEGBaseline8Bit, PixelData=encapsulate([stream.getvalue()]))


def _deflated() -> bytes:
    from pydicom.uid import DeflatedExplicitVRLittleEndian  # noqa: PLC0415

    size = 400_000_000
    small = _dicom_bytes(syntax=DeflatedExplicitVRLittleEndian, NumberOfFrames=size // 256)
    start = 132 + 12 + int.from_bytes(small[140:144], "little")  # behind the elements that are not deflated
    head = zlib.decompressobj(-15).decompress(small[start:])
    place = head.rindex(b"\xe0\x7f\x10\0") + 8
    pack = zlib.compressobj(9, wbits=-15)
    packed = pack.compress(head[:place] + struct.pack("<I", size))
    packed += b"".join(pack.compress(bytes(1_000_000)) for _ in range(size // 1_000_000)) + pack.flush()
    return small[:start] + packed


def _endless(address: str, shop: Workshop) -> str:
    """What has no end is not read as a picture, by whatever address; the process would be killed for its memory."""
    started = time.monotonic()
    with bounded(600):
        told = shop.model().predict_table(shop.changed("scan", address, 3))
    if time.monotonic() - started > 10:
        return "takes more than ten seconds"
    problem = told["problem"][3]
    if "memory" in problem.lower() or "MemoryError" in problem:
        return f"read until the memory ended: {problem[:80]}"
    if not problem:
        return "read without a word"
    raise Loud(problem)


def _short_of_memory(shop: Workshop) -> str:
    """A sound picture for which the memory does not suffice is not called damaged."""
    short: dict[str, Any] = {"side_effect": MemoryError}
    with patch.object(cv2, "resize", **short), patch.object(Image.Image, "load", **short):
        told = shop.model().predict_table(shop.frame.iloc[:2])
    return need(not told["problem"].str.contains("damaged").any(), told["problem"][0])


def _page_of(number: int, shop: Workshop) -> str:
    stream = io.BytesIO()
    first, second = Image.fromarray(_COLOURS), Image.fromarray(255 - _COLOURS)
    first.save(stream, "TIFF", save_all=True, append_images=[second])
    seen = _decoded(stream.getvalue(), f"x.tif#frame={number}", shop)
    return need(np.array_equal(seen, (_COLOURS, 255 - _COLOURS)[number - 1]), "another page")


_UNREADABLE = "damaged|unreadable|not an image|format|photometric|finite|alpha|frame|pixels|limit|PostScript"
PIXELS = [
    *(Case(12, f"TIFF, {name}", partial(_shows, *it), _UNREADABLE) for name, it in _TIFFS.items()),
    Case(12, "BMP with an alpha of zeros", partial(_shows, _bmp, lambda: _COLOURS), _UNREADABLE),
    *(
        Case(12, f"DICOM, {more}", partial(_not_flat, more), _UNREADABLE)
        for more in (
            {"RescaleSlope": "1e308", "RescaleIntercept": "1e308"}, {"RescaleSlope": "1e308", "RescaleIntercept": "0"},
            {"RescaleSlope": "1", "RescaleIntercept": "1e30"}, {"WindowCenter": "1e308", "WindowWidth": "1e308"},
        )
    ),
    *(Case(12, f"{form} of two pages", partial(_several, form)) for form in ("TIFF", "GIF", "WEBP")),
    *(Case(12, f"page {number} of a TIFF", partial(_page_of, number), _UNREADABLE) for number in (1, 2)),
    Case(12, "PostScript named .png", _program, _UNREADABLE),
    Case(12, "a huge picture in an icon", partial(_bomb, _icon, "x.ico"), _UNREADABLE),
    Case(12, "a huge JPEG in DICOM", partial(_bomb, _jpeg_in_dicom, "x.dcm"), _UNREADABLE),
    Case(12, "deflated DICOM of 400 MB", partial(_bomb, _deflated, "x.dcm"), _UNREADABLE, slow=True),
    *(
        Case(12, f"the address {address}", partial(_endless, address))
        for address in ("/dev/zero", "file:///dev/zero", "local:///dev/zero", "dir://zero::file:///dev", "zip://x::/dev/zero")
    ),
    Case(12, "not enough memory", _short_of_memory, "memory"),
]  # fmt: skip
