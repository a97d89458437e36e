"""A user's own augmentation: every form, the same view in any batch, generators left as they were."""

from __future__ import annotations

import random
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fusetune.augment.image import ImageAugment
from fusetune.augment.own import Own, OwnAugment, as_own, chosen, imported, try_out
from fusetune.augment.random import Moment
from fusetune.config import IMAGE_POLICIES, Config
from fusetune.errors import ConfigError, UserError

KEYS = torch.arange(50, 60) * 7919


def pictures(rows: int, side: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (rows, side, side, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)


def jitter(batch: Tensor) -> Tensor:
    """Draw from all three generators, as transforms do."""
    strength = 0.3 * float(torch.rand(())) + 0.2 * float(np.random.random()) + 0.1 * random.random()
    return batch * (1 - strength)


def mirrored(image: Image.Image) -> Image.Image:
    return ImageOps.mirror(image)


def inverted(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return 255 - image


@pytest.mark.parametrize("policy", ["none", "medium"])
def test_a_row_gets_the_same_view_in_any_batch(policy: str) -> None:
    augment, images, moment = OwnAugment(Own(jitter, policy=policy), 18), pictures(6), Moment(1, 2)
    whole = augment.draw(images, KEYS[:6], moment)
    for rows in ([0], [5, 2], [1, 3, 4]):
        assert torch.equal(augment.draw(images[rows], KEYS[rows], moment), whole[rows])
    views = augment.draw_views(images, KEYS[:6], [moment, Moment(1, 2, 1)])
    assert torch.equal(views[:6], whole)
    assert (views[6:] - whole).abs().amax((1, 2, 3)).min() > 0.001


def test_the_policy_comes_first_and_then_the_call() -> None:
    images = pictures(3)
    found = OwnAugment(Own(lambda batch: 1 - batch, policy="medium"), 18).draw(images, KEYS[:3], Moment(4))
    expected = 1 - ImageAugment(IMAGE_POLICIES["medium"], 18).draw(images, KEYS[:3], Moment(4))
    assert (found - expected).abs().max() < 1e-6


def test_generators_are_left_as_they_were() -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # type: ignore[index]
    OwnAugment(Own(jitter), 20).draw(pictures(3), KEYS[:3], Moment(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]
    assert random.getstate() == before[2]


def test_functions_on_single_images() -> None:
    images = pictures(2)
    plain = images.float() / 255
    found = OwnAugment(Own(mirrored, "pil"), 20).draw(images, KEYS[:2], Moment(0))
    assert (found - plain.flip(3)).abs().max() < 1e-6
    found = OwnAugment(Own(inverted, "numpy"), 20).draw(images, KEYS[:2], Moment(0))
    assert (found - (1 - plain)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda batch: batch[..., :5], r"shape \(3, 20, 5\).*3 x 20 x 20 is needed"),
        (lambda batch: batch * float("nan"), "not finite"),
        (lambda batch: batch * 255, "leave normalisation out"),
        (lambda batch: batch.no_such_thing, r"failed on a picture in the form 'batch' \(float tensor.*no_such_thing"),
        (lambda batch: None, "failed on a picture"),
    ],
)
def test_wrong_results_are_refused(call: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        OwnAugment(Own(call), 20).draw(pictures(2), KEYS[:2], Moment(0))
    with pytest.raises(UserError, match=message):
        try_out(Own(call), 20)


@pytest.mark.parametrize("middle", [0.5, 0.485])
@pytest.mark.parametrize("deviation", [1.0, 0.5, 0.225])
def test_normalisation_is_found_before_it_can_do_harm(middle: float, deviation: float) -> None:
    with pytest.raises(UserError, match="leave normalisation out"):
        try_out(Own(lambda batch: (batch - middle) / deviation), 20)


def test_noise_may_leave_the_range_and_is_cut_off() -> None:
    noisy = Own(lambda batch: batch + 0.5 * torch.randn_like(batch))
    try_out(noisy, 20)
    found = OwnAugment(noisy, 20).draw(pictures(2), KEYS[:2], Moment(0))
    assert found.min() == 0
    assert found.max() == 1


def test_a_form_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="form 'numpyy' is none of batch, numpy, pil"):
        Own(jitter, "numpyy")  # type: ignore[arg-type]


def test_prediction_sees_plain_pictures() -> None:
    assert torch.equal(OwnAugment(Own(jitter), 20).plain(pictures(2)), pictures(2).float() / 255)


def test_the_description_tells_callables_apart() -> None:
    def described(own: Own) -> dict[str, object]:
        return OwnAugment(own, 20).describe()

    assert described(Own(jitter)) == described(Own(jitter))
    others = [Own(mirrored), Own(jitter, "numpy"), Own(jitter, policy="light"), Own(jitter, name="another")]
    assert all(described(other) != described(Own(jitter)) for other in others)
    assert "jitter#" in Own(jitter).label

    class Turn:
        def __init__(self, angle: int) -> None:
            self.angle = angle

        def __repr__(self) -> str:
            return f"<Turn {self.angle} at 0x{id(self):x}>"

        def __call__(self, batch: Tensor) -> Tensor:
            return batch

    assert Own(Turn(3)).label == Own(Turn(3)).label != Own(Turn(4)).label


def test_addresses_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("my_transforms")
    module.strong, module.number = jitter, 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_transforms", module)
    assert imported("import:my_transforms:strong").call is jitter
    assert Config.build({"image": {"augment": "import:my_transforms:strong"}}).image.policy.operations == ()
    for address, message in (
        ("import:my_transforms", "write .* as import:package.module:name"),
        ("import:no_such_module_here:x", "cannot be imported"),
        ("import:my_transforms:weak", "cannot be imported.*weak"),
        ("import:my_transforms:number", "3 cannot be called"),
    ):
        with pytest.raises(ConfigError, match=message):
            imported(address)


def test_a_callable_from_python_must_be_given_again() -> None:
    own = Own(jitter)
    assert chosen(f"given:{own.label}", own) is own
    assert chosen("medium", own) is None
    for given in (None, Own(mirrored)):
        with pytest.raises(ConfigError, match="give the same one again"):
            chosen(f"given:{own.label}", given)


def test_kornia_transforms_plug_in_as_they_are() -> None:
    kornia = pytest.importorskip("kornia.augmentation")
    sequence = kornia.AugmentationSequential(
        kornia.RandomAffine(degrees=20.0, translate=(0.1, 0.1), p=1.0), kornia.RandomHorizontalFlip(p=0.5)
    )
    augment, images = OwnAugment(as_own(sequence), 20), pictures(4)
    whole = augment.draw(images, KEYS[:4], Moment(0))
    assert torch.equal(augment.draw(images[[2, 0]], KEYS[[2, 0]], Moment(0)), whole[[2, 0]])
    assert (whole - images / 255).abs().amax((1, 2, 3)).min() > 0.05
    assert "degrees=20" in repr(sequence) or "RandomAffine" in repr(sequence)
    assert as_own(sequence).label == as_own(sequence).label


def test_albumentations_transforms_plug_in_as_they_are() -> None:
    albumentations = pytest.importorskip("albumentations")
    transform = albumentations.Compose([albumentations.Rotate(limit=30, p=1.0), albumentations.GaussNoise(p=1.0)])
    augment, images = OwnAugment(as_own(transform), 20), pictures(4)
    whole = augment.draw(images, KEYS[:4], Moment(0))
    assert torch.equal(augment.draw(images[[2, 0]], KEYS[[2, 0]], Moment(0)), whole[[2, 0]])
    assert (whole - images / 255).abs().amax((1, 2, 3)).min() > 0.05


def test_torchvision_transforms_plug_in_as_they_are() -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2")
    augment, images = OwnAugment(Own(transforms.RandomRotation(30)), 20), pictures(4)
    whole = augment.draw(images, KEYS[:4], Moment(0))
    assert torch.equal(augment.draw(images[[2, 0]], KEYS[[2, 0]], Moment(0)), whole[[2, 0]])
