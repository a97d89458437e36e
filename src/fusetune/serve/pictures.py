"""Pictures of a request: sent along, in base64, or behind an address of an allowed host; never a path of ours."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Mapping
from http.client import HTTPException, HTTPMessage
from typing import IO, Any
from urllib.error import URLError
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from fusetune.data.paths import DATA_ADDRESS, KNOWN_FORMATS, begins_like_picture
from fusetune.errors import clipped
from fusetune.serve.options import Options
from fusetune.serve.refusal import RefusedError

_PIECE, _SHORTEST = 2**16, 64
_WEB = ("http://", "https://")
_WAYS = "send its bytes as a file of a multipart request, or in base64 (a data: address or plain)"


def picture(value: object, uploads: Mapping[str, bytes], options: Options, place: str) -> bytes | None:
    """Return the bytes of a picture.

    Args:
        value: A word: base64, a data: address, `upload:NAME` for a file of the same request, or http(s)://; or bytes.
        uploads: The files of the request by name.
        options: Which hosts are allowed, and how many bytes.
        place: Row and column, for messages.

    Raises:
        RefusedError: If it is none of these, or holds no picture.
    """
    match value:
        case None | "":
            return None
        case bytes():
            content = value
        case str():
            content = _of_words(value.strip(), uploads, options, place)
        case _:
            raise RefusedError(422, f"{place}: a picture cannot be {_kind(value)}; {_WAYS}")
    if not content:
        raise RefusedError(422, f"{place}: the picture is empty")
    if not begins_like_picture(content):
        raise RefusedError(422, f"{place}: {len(content):,} bytes that are no picture; known formats: {KNOWN_FORMATS}")
    return content


def _kind(value: object) -> str:
    match value:
        case bool():
            return "a truth value"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case _:
            return "an object"


def _of_words(words: str, uploads: Mapping[str, bytes], options: Options, place: str) -> bytes:
    if not words:
        return b""
    if words.startswith("upload:"):
        name = words.removeprefix("upload:")
        if name not in uploads:
            raise RefusedError(422, f"{place}: there is no file '{clipped(name, 60)}' in the request")
        return uploads[name]
    if words.lower().startswith(_WEB):
        return fetched(words, options, place)
    if (head := DATA_ADDRESS.match(words)) is not None:
        rest = words[head.end() :]
        if not head[0].rstrip(",").lower().endswith(";base64"):
            return unquote_to_bytes(rest)
        return _decoded(unquote_to_bytes(rest), place)
    # The base64 of a picture is long: what is short is a path or a name, which is never looked at.
    if len(words) < _SHORTEST:
        raise _no_picture(words, place)
    return _decoded(words.encode("utf-8", "replace"), place)


def _decoded(words: bytes, place: str) -> bytes:
    words = b"".join(words.split())
    try:
        return base64.b64decode(words + b"=" * (-len(words) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _no_picture(words.decode("utf-8", "replace"), place) from error


def _no_picture(words: str, place: str) -> RefusedError:
    why = "is no picture in base64, and files of this machine are not read"
    return RefusedError(422, f"{place}: '{clipped(words, 40)}' {why}; {_WAYS}")


def fetched(address: str, options: Options, place: str) -> bytes:
    """Return what is behind an address of an allowed host; each redirect must lead to one, too.

    Raises:
        RefusedError: If the host is not allowed, does not answer in time, or sends too much.
    """
    _check_host(address, options, place)

    class Redirects(HTTPRedirectHandler):
        max_redirections = 3

        def redirect_request(
            self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
        ) -> Request | None:
            _check_host(newurl, options, place)
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    deadline = time.monotonic() + options.seconds / 2
    opener: Any = build_opener(ProxyHandler({}), Redirects())
    parts = []
    try:
        # Handlers of file:, ftp: and data: are never reached: the address begins with http, and so does each redirect.
        with opener.open(Request(address, headers={"User-Agent": "fusetune"}), timeout=options.seconds / 2) as answer:
            total = 0
            while part := answer.read1(_PIECE):
                parts.append(part)
                total += len(part)
                if total > options.body:
                    raise RefusedError(
                        422, f"{place}: the picture behind the address has more than {options.body:,} bytes"
                    )
                if time.monotonic() > deadline:
                    raise RefusedError(422, f"{place}: the picture behind the address did not come in time")
    except (URLError, HTTPException, OSError, ValueError) as error:
        said = clipped(str(getattr(error, "reason", "") or error), 100)
        raise RefusedError(422, f"{place}: the picture could not be fetched ({said})") from error
    return b"".join(parts)


def _check_host(address: str, options: Options, place: str) -> None:
    """Refuse an address unless its host was allowed, as `host`, `host:port` or `*.host`."""
    try:
        parts = urlsplit(address)
        host, port = (parts.hostname or "").lower().rstrip("."), parts.port
    except ValueError as error:
        raise RefusedError(422, f"{place}: that is no address ({error})") from error
    if parts.scheme.lower() not in ("http", "https") or not host:
        raise RefusedError(422, f"{place}: that is no address that begins with http:// or https://")
    for allowed in options.hosts:
        name, _, only = allowed.lower().partition(":")
        fits = host.endswith(name[1:]) if name.startswith("*.") else host == name
        # Without a port in the allowance, the usual ones: what else listens on that host was not meant.
        if fits and (port == int(only) if only else port in (None, 80, 443)):
            return
    remedy = f"allowed are {', '.join(options.hosts)}" if options.hosts else "this server fetches no pictures"
    raise RefusedError(422, f"{place}: pictures of '{clipped(host, 60)}' are not fetched; {remedy}. Or {_WAYS}")
