"""A user's own augmentation: any callable on a batch or on one image, such as a kornia or albumentations transform.

The callable draws its random numbers itself. Before each row's call the generators of torch, NumPy and Python (and the
callable's own, where it has a `set_random_seed`) are seeded from the same stateless hash that fusetune's operations
draw from, and put back afterwards. A callable that takes all its randomness from them therefore gives a row the same
view in any batch, order and run. What cannot be promised: that this survives another version of the other library or
another device, or holds for a callable that keeps a state of its own between calls. Calls are made one row at a time.

Only training is affected: predictions see plain pictures, so a model is saved and loaded without the callable.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args
from uuid import uuid4

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fusetune.augment import Augment
from fusetune.augment.image import ImageAugment
from fusetune.augment.random import Moment, integers
from fusetune.config import IMAGE_POLICIES, ImagePolicy
from fusetune.config.tree import OWN
from fusetune.errors import ConfigError, UserError
from fusetune.process import Draws

IMPORT, GIVEN = OWN
Form = Literal["batch", "numpy", "pil"]
_FORMS: dict[Form, str] = {
    "batch": "float tensor [1, 3, side, side] in 0..1",
    "numpy": "uint8 array [side, side, 3]",
    "pil": "RGB PIL.Image",
}
# How far the mean of a picture may lie outside 0..1, and how many views are tried out.
_OUTSIDE, _TRIALS = 0.25, 3


@dataclass(frozen=True)
class Own:
    """A callable and what it takes.

    Attributes:
        call: The callable.
        form: batch: float tensor [1, 3, side, side] in 0..1 to the same; numpy: uint8 array [side, side, 3] to the
            same; pil: an RGB `PIL.Image` to the same.
        policy: What happens before the call: a policy or the name of one. The picture always gets its final size first.
        name: Under which the features of its views are stored, for other runs to find. Your promise: whatever changes
            what it does, its settings included, gets another name. Without one nobody can tell, and every run makes
            these features anew.

    Raises:
        ConfigError: If it cannot be called, or the form or the policy is none of those that exist.
    """

    call: Callable[..., Any]
    form: Form = "batch"
    policy: ImagePolicy | str = "none"
    name: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.call):
            raise ConfigError(f"image.augment: {self.call!r} cannot be called")
        if self.form not in get_args(Form):
            raise ConfigError(f"image.augment: form '{self.form}' is none of {', '.join(get_args(Form))}")
        if isinstance(self.policy, str) and self.policy not in IMAGE_POLICIES:
            raise ConfigError(f"image.augment: '{self.policy}' is no policy; known: {', '.join(IMAGE_POLICIES)}")

    @property
    def before(self) -> ImagePolicy:
        """The policy that comes first."""
        return IMAGE_POLICIES[self.policy] if isinstance(self.policy, str) else self.policy

    @property
    def label(self) -> str:
        """The name, or what Python calls the callable: for messages, and for asking for it again."""
        kind = self.call if hasattr(self.call, "__qualname__") else type(self.call)
        return self.name or f"{kind.__module__}:{kind.__qualname__}"


def as_own(value: Any) -> Own:
    """Return what was given as an `Own`; albumentations transforms are recognised as functions on arrays.

    Raises:
        ConfigError: If it cannot be called.
    """
    if isinstance(value, Own):
        return value
    return Own(value, "numpy" if type(value).__module__.startswith("albumentations") else "batch")


def imported(address: str) -> Own:
    """Return what `import:package.module:name` stands for.

    From an installed package it is named by its address and by the digest of what was installed, where it has no name.

    Raises:
        ConfigError: If there is no such module or name, or if it cannot be called.
    """
    module, sign, name = address.removeprefix(IMPORT).partition(":")
    if not sign or not module or not name:
        raise ConfigError(f"image.augment: write '{address}' as import:package.module:name")
    try:
        own = as_own(getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"image.augment: '{address}' cannot be imported: {error}") from error
    release = None if own.name else _release(module)
    return own if release is None else replace(own, name=f"{address}#{release}")


def _release(module: str) -> str | None:
    """Return a digest of the installed package that a module is part of, or None: a file that may change any time."""
    file = Path(getattr(sys.modules[module], "__file__", None) or "")
    for name in metadata.packages_distributions().get(module.partition(".")[0], ()):
        package = metadata.distribution(name)
        # A package installed in editable form does not list the module among its files.
        if file in {Path(str(path.locate())) for path in package.files or ()} and (
            record := package.read_text("RECORD")
        ):
            return hashlib.sha256(record.encode()).hexdigest()[:16]  # it lists the digest of each file
    return None


def chosen(augment: ImagePolicy | str, own: Own | None) -> Own | None:
    """Return the callable that the setting `image.augment` names, or None where it names a policy.

    Args:
        augment: The setting.
        own: What was passed from Python.

    Raises:
        ConfigError: If the callable cannot be imported, or was passed from Python once and is not passed again.
    """
    if not isinstance(augment, str) or not augment.startswith(OWN):
        return None
    if augment.startswith(IMPORT):
        return imported(augment)
    if own is None or augment != GIVEN + own.label:
        raise ConfigError(
            f"image.augment: '{augment}' is a callable that was given from Python; give the same one again, as in "
            "fusetune.fit(..., augment={'image': it})"
        )
    return own


@dataclass(frozen=True)
class OwnAugment(Augment):
    """Turns canonical uint8 images into what an image encoder sees: fusetune's policy, then the user's callable.

    Attributes:
        own: The callable.
        size: Side of the result in pixels.
        token: Tells this one from all others, copies of it excepted.
    """

    own: Own
    size: int
    token: str = field(default_factory=lambda: uuid4().hex, repr=False, compare=False)

    @property
    def before(self) -> ImageAugment:
        """What happens before the call."""
        return ImageAugment(self.own.before, self.size)

    @property
    def varies(self) -> bool:
        """Can two views of the same input differ?"""
        return True

    @property
    def fleeting(self) -> str | None:
        """Where nobody can tell what the random views depend on: a word that no other run has."""
        return None if self.own.name else self.token

    def describe(self) -> dict[str, object]:
        """Return what the results depend on, for the feature store's key; of a callable without a name, not all."""
        return {"own": self.own.name, "form": self.own.form, **self.before.describe()}

    def plain(self, images: Tensor) -> Tensor:
        """Show the whole picture, unchanged but for its size."""
        return self.before.plain(images)

    def draw(self, images: Tensor, keys: Tensor, moment: Moment) -> Tensor:
        """Draw one random view of every picture, float32 [rows, 3, size, size] in 0..1; what lies outside is cut off.

        Raises:
            UserError: If the callable fails, or returns something else than a picture of the same size in about 0..1.
        """
        return self.draw_views(images, keys, [moment])

    def draw_views(self, images: Tensor, keys: Tensor, moments: Sequence[Moment]) -> Tensor:
        """Draw several random views of every picture: all rows of the first, then all of the second, and so on."""
        views = self.before.draw_views(images, keys, moments)
        seeds = torch.cat([integers(moment, keys.cpu(), "own", 1, 2**32)[:, 0] for moment in moments]).tolist()
        for place, seed in enumerate(seeds):
            with Draws(seed):
                if hasattr(self.own.call, "set_random_seed"):
                    self.own.call.set_random_seed(seed)
                views[place] = self._view(views[place]).clamp(0, 1)
        return views

    def _view(self, image: Tensor) -> Tensor:
        try:
            view = _called(self.own, image)
        except Exception as error:
            raise UserError(
                f"image.augment: {self.own.label} failed on a picture in the form '{self.own.form}' "
                f"({_FORMS[self.own.form]}): {type(error).__name__}: {error}"
            ) from error
        if view.shape != (3, self.size, self.size) or not bool(view.isfinite().all()):
            raise UserError(
                f"image.augment: {self.own.label} returned values of shape {tuple(view.shape)}, some perhaps not "
                f"finite; a picture of 3 x {self.size} x {self.size} is needed (leave cropping and resizing out)"
            )
        # The mean, for noise may carry single pixels anywhere.
        if not -_OUTSIDE < float(view.mean()) < 1 + _OUTSIDE:
            raise UserError(
                f"image.augment: {self.own.label} returned values from {float(view.min()):.3g} to "
                f"{float(view.max()):.3g}; a picture in 0..1 is needed (leave normalisation out, the encoder does it)"
            )
        return view


def try_out(own: Own, size: int) -> None:
    """Call a callable on a black and on a white picture, so that what cannot work fails before anything is trained.

    Normalisation, which the encoder does itself, makes black darker than black or white brighter than white.

    Raises:
        UserError: If the callable fails, or returns something else than a picture of the same size in about 0..1.
    """
    for value in (0, 255):
        picture = torch.full((1, size, size, 3), value, dtype=torch.uint8).permute(0, 3, 1, 2)
        OwnAugment(own, size).draw(picture.expand(_TRIALS, -1, -1, -1), torch.arange(_TRIALS), Moment(0))


def _called(own: Own, image: Tensor) -> Tensor:
    """Call with one picture [3, side, side] in the form that the callable takes; return float [3, side, side]."""
    if own.form == "batch":
        return torch.as_tensor(own.call(image[None].contiguous()))[0].to(image)
    pixels = (image * 255).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().cpu().numpy()
    if own.form == "pil":
        view = np.asarray(own.call(Image.fromarray(pixels)).convert("RGB"))
    elif type(own.call).__module__.startswith("albumentations"):
        view = own.call(image=pixels)["image"]
    else:
        view = own.call(pixels)
    array = np.asarray(view)
    scale = 255 if array.dtype == np.uint8 else 1
    tensor = torch.from_numpy(np.array(array, dtype=np.float32) / scale).to(image.device)
    return tensor.permute(2, 0, 1) if tensor.ndim == 3 else tensor
