"""Annotations of CVAT, format "CVAT for images 1.1": boxes and tags per frame of one video stream, read and written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from fusetune.errors import UserError, listed


@dataclass(frozen=True)
class Box:
    """A labelled rectangle: left, top, right and bottom edge in pixels."""

    label: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Frame:
    """One annotated frame.

    Attributes:
        number: The frame's number in its stream.
        name: File name of the picture.
        width: Its width in pixels.
        height: Its height in pixels.
        boxes: What was found in it.
        tags: Words about the whole frame, by `label.attribute`, such as ``Probe.orientation``.
    """

    number: int
    name: str
    width: int
    height: int
    boxes: tuple[Box, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Annotation:
    """One annotation file: its frames in order of their number, and the source it names (empty if none)."""

    frames: tuple[Frame, ...]
    source: str = ""


def read_cvat(path: Path) -> Annotation:
    """Read an annotation file.

    Raises:
        UserError: The file is no XML, has no frames, names a frame twice, or a frame or box lacks an attribute.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise UserError(f"{path} is broken or no XML file: {error}; fetch it again from its publisher") from error
    frames = sorted((_frame(element, path) for element in root.iterfind("image")), key=lambda frame: frame.number)
    if root.tag != "annotations" or not frames:
        raise UserError(f"{path} holds no annotated frames; a file of the format CVAT for images 1.1 is needed")
    names = [frame.name for frame in frames]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UserError(f"{path} annotates {listed(twice)} more than once; correct the file")
    return Annotation(tuple(frames), root.findtext("meta/source", ""))


def write_cvat(path: Path, task: str, frames: Iterable[Frame], source: str) -> None:
    """Write an annotation file as CVAT 1.1 does, last frame first; `source` becomes an element of `meta`."""
    ordered = sorted(frames, key=lambda frame: -frame.number)
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    meta = ElementTree.SubElement(root, "meta")
    ElementTree.SubElement(meta, "source").text = source
    about = ElementTree.SubElement(meta, "task")
    for name, text in (("name", task), ("size", str(len(ordered))), ("mode", "annotation")):
        ElementTree.SubElement(about, name).text = text
    for frame in ordered:
        _add_frame(root, frame, source)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _frame(element: ElementTree.Element, path: Path) -> Frame:
    try:
        number, width, height = (int(element.attrib[key]) for key in ("id", "width", "height"))
        boxes = tuple(
            Box(box.attrib["label"], *(float(box.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr")))
            for box in element.iterfind("box")
        )
        tags = {
            f"{tag.attrib['label']}.{attribute.attrib['name']}": (attribute.text or "").strip()
            for tag in element.iterfind("tag")
            for attribute in tag.iterfind("attribute")
        }
        return Frame(number, element.attrib["name"], width, height, boxes, tags)
    except KeyError as error:
        raise UserError(f"{path}: {_named(element)} lacks the attribute {error}; fetch the file again") from error
    except ValueError as error:
        raise UserError(f"{path}: {_named(element)} holds something else than a number: {error}") from error


def _named(element: ElementTree.Element) -> str:
    return f"the frame {element.get('name', element.get('id', 'without a name'))}"


def _add_frame(root: ElementTree.Element, frame: Frame, source: str) -> None:
    size = {"width": str(frame.width), "height": str(frame.height)}
    image = ElementTree.SubElement(root, "image", {"id": str(frame.number), "name": frame.name, **size})
    for box in frame.boxes:
        edges = zip(("xtl", "ytl", "xbr", "ybr"), (box.left, box.top, box.right, box.bottom), strict=True)
        corners = {key: f"{value:.2f}" for key, value in edges}
        about = {"label": box.label, "occluded": "0", "source": source}
        ElementTree.SubElement(image, "box", {**about, **corners, "z_order": "0"})
    for name, text in frame.tags.items():
        label, _, attribute = name.partition(".")
        tag = ElementTree.SubElement(image, "tag", {"label": label, "source": source})
        ElementTree.SubElement(tag, "attribute", {"name": attribute}).text = text
