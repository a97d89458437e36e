"""A fingerprint of a callable: equal only where code and everything it works with are.

Stored features are found again by it, so a change that it does not notice would give the features of another function.
What cannot be looked into therefore gets a fingerprint of its own, and its features are made anew.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from pathlib import Path, PurePath
from typing import Any
from uuid import uuid4

import numpy as np
import torch

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), Enum, PurePath, torch.dtype, torch.device)
_BUILT_IN = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator, torch.Generator)
# Their transforms print all their settings, and keep what the last call drew among their attributes.
_PRINTING = ("albumentations", "kornia", "torchvision")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def fingerprint(call: Any) -> str:
    """Return 16 hexadecimal digits that depend on what a callable does.

    Looked into are the code of functions and classes of the callable's own module and of all that are not installed as
    packages, defaults, values from around a function, the attributes of objects, arrays and tensors. Code of installed
    packages is named, with its version.
    """
    reader = _Reader(_module(call))
    try:
        reader.read(call)
    except Exception:  # somebody's `__repr__` fails, or objects lie within each other a thousand deep
        return uuid4().hex[:16]
    return reader.digest.hexdigest()[:16]


class _Reader:
    def __init__(self, home: str) -> None:
        self.home = home
        self.digest = hashlib.sha256()
        self.seen: dict[int, int] = {}
        # What was read must outlive the reading, or another object may get its address.
        self.kept: list[Any] = []

    def read(self, thing: Any) -> None:
        if isinstance(thing, _PLAIN):
            self._say(type(thing).__name__, repr(thing))
        elif id(thing) in self.seen:
            self._say("again", self.seen[id(thing)])
        else:
            self.seen[id(thing)] = len(self.seen)
            self.kept.append(thing)
            self._say(type(thing).__name__)
            next(way for kinds, way in _WAYS if isinstance(thing, kinds))(self, thing)

    def _say(self, *words: Any) -> None:
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode()
            self.digest.update(len(data).to_bytes(8, "little") + data)

    def _each(self, things: Iterable[Any]) -> None:
        for thing in things:
            self.read(thing)
        self._say("end")

    def _named(self, module: str, name: str) -> None:
        top = sys.modules.get(module.partition(".")[0])
        self._say("named", module, name, getattr(top, "__version__", ""))

    def _array(self, array: Any) -> None:
        whole = np.ascontiguousarray(array)
        self._say(whole.dtype, whole.shape)
        if whole.dtype == object:
            self._each(whole.ravel().tolist())
        else:
            self._say(whole.tobytes())

    def _tensor(self, tensor: torch.Tensor) -> None:
        self._say(tensor.dtype, tuple(tensor.shape))
        self._array(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())

    def _looks_into(self, module: str | None) -> bool:
        return module == self.home or _is_users(module or "")

    def _function(self, function: types.FunctionType) -> None:
        if not self._looks_into(function.__module__):
            # Its code comes from a package with a version, but what it holds may be the user's.
            self._named(function.__module__ or "", function.__qualname__)
        else:
            self._code(function.__code__)
            names = sorted(_names(function.__code__))
            self._each((name, function.__globals__[name]) for name in names if name in function.__globals__)
        self._each((function.__defaults__, function.__kwdefaults__, function.__dict__))
        for cell in function.__closure__ or ():
            try:
                self.read(cell.cell_contents)
            except ValueError:  # a cell that has not been filled
                self._say("empty")

    def _code(self, code: types.CodeType) -> None:
        self._say("code", code.co_code, code.co_names, code.co_varnames, code.co_freevars)
        self._each(code.co_consts)

    def _class(self, kind: type) -> None:
        self._named(kind.__module__, kind.__qualname__)
        for base in kind.__mro__:
            if self._looks_into(base.__module__):
                own = {name: value for name, value in vars(base).items() if not _is_housekeeping(name, value)}
                self._each((name, own[name]) for name in sorted(own))

    def _object(self, thing: Any) -> None:
        self.read(type(thing))
        said = repr(thing)
        slots = [name for base in type(thing).__mro__ for name in _slots(base)]
        if type(thing).__module__.partition(".")[0] in _PRINTING and not _ADDRESS.search(said):
            self._say(said)
        elif slots or hasattr(thing, "__dict__"):
            state = {name: getattr(thing, name) for name in slots if hasattr(thing, name)}
            self._mapping(state | getattr(thing, "__dict__", {}))
        else:  # an address says that this text does not tell what it is
            self._say(uuid4().hex if _ADDRESS.search(said) else said)

    def _mapping(self, mapping: Mapping[Any, Any]) -> None:
        self._each(part for item in mapping.items() for part in item)

    def _generator(self, _: Any) -> None:
        """Its state changes with every call; it is seeded per row anyway."""


# What each kind of thing is made of; the first that fits.
_WAYS: list[tuple[Any, Callable[[_Reader, Any], None]]] = [
    ((np.ndarray, np.generic), _Reader._array),
    (torch.Tensor, _Reader._tensor),
    (Mapping, _Reader._mapping),
    ((list, tuple, range), _Reader._each),
    ((set, frozenset), lambda reader, thing: reader._each(sorted(thing, key=repr))),
    (slice, lambda reader, thing: reader._each((thing.start, thing.stop, thing.step))),
    (functools.partial, lambda reader, thing: reader._each((thing.func, thing.args, thing.keywords))),
    (types.ModuleType, lambda reader, thing: reader._named(thing.__name__, "")),
    (types.MethodType, lambda reader, thing: reader._each((thing.__func__, thing.__self__))),
    (types.FunctionType, _Reader._function),
    (types.CodeType, _Reader._code),
    (type, _Reader._class),
    (_BUILT_IN, lambda reader, thing: reader._named(str(getattr(thing, "__module__", "")), thing.__qualname__)),
    ((staticmethod, classmethod), lambda reader, thing: reader.read(thing.__func__)),
    (property, lambda reader, thing: reader._each((thing.fget, thing.fset))),
    (_GENERATORS, _Reader._generator),
    (object, _Reader._object),
]


def _module(call: Any) -> str:
    thing = call
    while isinstance(thing, functools.partial):
        thing = thing.func
    return str(getattr(thing, "__module__", None) or type(thing).__module__)


@functools.cache
def _is_users(module: str) -> bool:
    """Return whether a module is somebody's file rather than part of an installed package."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or module.partition(".")[0] == "fusetune":
        return False
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return not any(Path(file).is_relative_to(place) for place in installed)


def _names(code: types.CodeType) -> set[str]:
    """Return every name that a code looks up, also in the functions it defines."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _slots(kind: type) -> tuple[str, ...]:
    found = vars(kind).get("__slots__", ())
    names = (found,) if isinstance(found, str) else tuple(found)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _is_housekeeping(name: str, value: Any) -> bool:
    """Return whether a class attribute says nothing about what the class does: its docstring, its descriptors."""
    return name in (
        "__module__", "__dict__", "__weakref__", "__doc__", "__annotations__", "__static_attributes__",
        "__firstlineno__", "__abstractmethods__", "_abc_impl",
    ) or isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType)  # fmt: skip
