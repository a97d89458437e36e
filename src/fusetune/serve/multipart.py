"""A multipart form in memory: its parts by name, and an error where it ends too early.

Frameworks hand out what they have of a form that was cut short, without a word: a row would be answered without its
picture. The bodies here are bounded, so that no part needs a file.
"""

from __future__ import annotations

from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from fusetune.errors import clipped
from fusetune.serve.refusal import RefusedError

_MOST, _HEADERS = 4096, 16


@dataclass
class Part:
    """One part of a form.

    Attributes:
        name: What it is called.
        file: Whether it is a file, even an empty one.
        content: Its bytes.
    """

    name: str
    file: bool
    content: bytes


class _Form:
    """Gathers the parts of a form while it is parsed."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        self._field = self._value = b""

    def on_part_begin(self) -> None:
        self._headers, self._pieces, self._field, self._value = {}, [], b"", b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""
        if len(self._headers) > _HEADERS:
            raise RefusedError(400, "a part of the form has too many headers")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(data[start:end])

    def on_part_end(self) -> None:
        disposition, facts = parse_options_header(self._headers.get(b"content-disposition"))
        name = facts.get(b"name")
        if disposition != b"form-data" or name is None:
            raise RefusedError(400, "a part of the form has no name")
        if len(self.parts) >= _MOST:
            raise RefusedError(413, f"the form has more than {_MOST:,} parts")
        self.parts.append(Part(name.decode("utf-8", "replace"), b"filename" in facts, b"".join(self._pieces)))

    def on_end(self) -> None:
        self.ended = True


def parts_of(content: bytes, content_type: str) -> list[Part]:
    """Return the parts of a form, in their order.

    Args:
        content: The body.
        content_type: What its header says, with the boundary.

    Raises:
        RefusedError: If it is no form, or cut short.
    """
    _, facts = parse_options_header(content_type)
    boundary, form = facts.get(b"boundary"), _Form()
    if not boundary:
        raise RefusedError(400, "the form cannot be read: its Content-Type names no boundary")
    names = (
        "on_part_begin", "on_part_data", "on_part_end", "on_header_field", "on_header_value", "on_header_end", "on_end",
    )  # fmt: skip
    try:
        parser = MultipartParser(boundary, {name: getattr(form, name) for name in names})  # type: ignore[arg-type]
        parser.write(content)
        parser.finalize()
    except FormParserError as error:
        raise RefusedError(400, f"the form cannot be read: {clipped(str(error), 100)}") from error
    if not form.ended:
        raise RefusedError(400, "the form ends before its last boundary; was it sent whole?")
    return form.parts
