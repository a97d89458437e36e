"""A user's own augmentation: every form, the same view in any batch, generators left as they were."""

from __future__ import annotations

import hashlib
import importlib
import random
import sys
import types
from dataclasses import replace
from pathlib import Path
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
    views = OwnAugment(Own(lambda batch: 1 - batch, policy="medium"), 18).draw(images, KEYS[:3], Moment(4))
    expected = 1 - ImageAugment(IMAGE_POLICIES["medium"], 18).draw(images, KEYS[:3], Moment(4))
    assert (views - expected).abs().max() < 1e-6


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
    views = OwnAugment(Own(mirrored, "pil"), 20).draw(images, KEYS[:2], Moment(0))
    assert (views - plain.flip(3)).abs().max() < 1e-6
    views = OwnAugment(Own(inverted, "numpy"), 20).draw(images, KEYS[:2], Moment(0))
    assert (views - (1 - plain)).abs().max() < 1e-6


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
    views = OwnAugment(noisy, 20).draw(pictures(2), KEYS[:2], Moment(0))
    assert views.min() == 0
    assert views.max() == 1


def test_a_form_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="form 'numpyy' is none of batch, numpy, pil"):
        Own(jitter, "numpyy")  # type: ignore[arg-type]


def test_prediction_sees_plain_pictures() -> None:
    assert torch.equal(OwnAugment(Own(jitter), 20).plain(pictures(2)), pictures(2).float() / 255)


def test_the_description_tells_named_callables_apart() -> None:
    def described(own: Own) -> dict[str, object]:
        return OwnAugment(own, 20).describe()

    named = Own(jitter, name="jitter 1")
    assert described(named) == described(Own(jitter, name="jitter 1"))
    others = [replace(named, name="jitter 2"), replace(named, form="numpy"), replace(named, policy="light")]
    assert all(described(other) != described(named) for other in others)
    assert OwnAugment(named, 20).fleeting is None


def test_a_callable_without_a_name_has_a_word_of_its_own_in_every_run() -> None:
    own = Own(jitter)
    one, other = OwnAugment(own, 20), OwnAugment(own, 20)
    assert one.fleeting
    assert one.fleeting != other.fleeting  # the same object may do something else by now
    assert replace(one, size=30).fleeting == one.fleeting  # the same run, at another size
    assert OwnAugment(Own(jitter, name=""), 20).fleeting


def test_a_callable_is_called_what_python_calls_it() -> None:
    class Turn:
        def __call__(self, batch: Tensor) -> Tensor:
            return batch

    assert Own(jitter).label == f"{__name__}:jitter"
    assert Own(Turn()).label.endswith("<locals>.Turn")
    assert Own(jitter, name="mine").label == "mine"


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


def installed(folder: Path, code: str, listed: bool = True) -> None:
    """Write a package as an installer does, with the digest of its module."""
    digest = hashlib.sha256(code.encode()).hexdigest()
    files = {
        "my_package_of_a_test/transforms.py": code,
        "my_package_of_a_test/__init__.py": "",
        "my_package_of_a_test-1.0.dist-info/METADATA": "Name: my-package-of-a-test\nVersion: 1.0\n",
        "my_package_of_a_test-1.0.dist-info/top_level.txt": "my_package_of_a_test\n",
        "my_package_of_a_test-1.0.dist-info/RECORD": "my_package_of_a_test/__init__.py,,\n"
        + f"my_package_of_a_test/transforms.py,sha256={digest},{len(code)}\n" * listed,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    for module in [name for name in sys.modules if name.startswith("my_package_of_a_test")]:
        del sys.modules[module]
    importlib.invalidate_caches()


def test_what_is_imported_from_an_installed_package_is_named_by_what_was_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    code = "def dark(batch):\n    return batch * 0.5\n"
    named = "\nfrom fusetune.augment.own import Own\nmine = Own(dark, name='mine')\n"

    def name_of(which: str = "dark") -> str | None:
        return imported(f"import:my_package_of_a_test.transforms:{which}").name

    installed(tmp_path, code + named)
    first = name_of()
    assert first is not None
    assert first.startswith("import:my_package_of_a_test.transforms:dark#")
    assert name_of() == first
    assert name_of("mine") == "mine"
    installed(tmp_path, code.replace("0.5", "0.6"))  # the same version, other code
    assert name_of() not in (first, None)
    installed(tmp_path, code, listed=False)  # as an editable installation does: the file may change any time
    assert name_of() is None


def test_what_is_imported_from_somebodys_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_file_of_a_test.py").write_text("def dark(batch):\n    return batch\n")
    assert imported("import:my_file_of_a_test:dark").name is None


def test_a_callable_from_python_must_be_given_again() -> None:
    own = Own(jitter)
    assert chosen(f"given:{own.label}", own) is own
    assert chosen("medium", own) is None
    for other in (None, Own(mirrored)):
        with pytest.raises(ConfigError, match="give the same one again"):
            chosen(f"given:{own.label}", other)


def test_kornia_transforms_plug_in_as_they_are() -> None:
    kornia = pytest.importorskip("kornia.augmentation")
    sequence = kornia.AugmentationSequential(
        kornia.RandomAffine(degrees=20.0, translate=(0.1, 0.1), p=1.0), kornia.RandomHorizontalFlip(p=0.5)
    )
    augment, images = OwnAugment(as_own(sequence), 20), pictures(4)
    whole = augment.draw(images, KEYS[:4], Moment(0))
    assert torch.equal(augment.draw(images[[2, 0]], KEYS[[2, 0]], Moment(0)), whole[[2, 0]])
    assert (whole - images / 255).abs().amax((1, 2, 3)).min() > 0.05


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
