"""Policies that contradict a column are refused, and names that sound like one are pointed out."""

from __future__ import annotations

import re

import pytest

from fusetune.augment.safety import check_policy
from fusetune.config import IMAGE_POLICIES, Config
from fusetune.data.choices import Kind
from fusetune.data.schema import Column, Schema
from fusetune.errors import ConfigError
from fusetune.progress import Log


def schema(*names: str) -> Schema:
    columns = [Column(name=name, kind=Kind.CATEGORY, role="input", reason="given") for name in names]
    return Schema(columns=[*columns, Column(name="organ", kind=Kind.CATEGORY, role="label", reason="given")])


def check(policy: object, names: tuple[str, ...] = ("age", "eye"), **image: object) -> list[str]:
    config = Config.build({"image": {"augment": policy, **image}})
    log = Log(None, quiet=True)
    check_policy(config.image, config.image.policy, schema(*names), log)
    return log.warnings


@pytest.mark.parametrize(
    ("policy", "image", "message"),
    [
        ("medium", {"orientation": "eye"}, r"image\.augment\.flip_horizontal: 0\.5 \(in the policy 'medium'\) .*=eye"),
        ({"flip_vertical": 0.1}, {"orientation": "eye"}, r"image\.augment\.flip_vertical: 0\.1 cannot go"),
        ({"rotate": 90}, {"orientation": "eye"}, r"image\.augment\.rotate: 90"),
        ("scan", {"orientation": "eyes"}, r"image\.orientation: the table has no column 'eyes', did you mean 'eye'"),
        ("light", {"spacing": "mm"}, r"image\.augment\.scale: 0\.08 .*image\.spacing=mm: physical sizes"),
        ("scan", {"spacing": "mm", "size": 160, "encode_size": 184}, r"image\.encode_size: 184 .*set it to 160"),
        ("paper", {"spacing": "mm", "size": 224, "encode_size": 224}, r"image\.encode_size: 224 .*set it to 244"),
    ],
)
def test_contradictions_are_refused(policy: object, image: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(policy, **image)


@pytest.mark.parametrize(("policy", "side"), [("scan", 160), ("paper", 174)])
def test_physical_scale_is_that_of_training(policy: str, side: int) -> None:
    """A whole picture of `side` pixels has as many pixels per millimetre as its crop of 160 pixels."""
    config = Config.build({"image": {"augment": policy, "size": 160, "spacing": "mm"}})
    assert config.image.encode_side == side
    assert check(policy, size=160, spacing="mm") == []


@pytest.mark.parametrize("policy", ["none", "scan", "ultrasound", "xray"])
def test_safe_presets_are_safe(policy: str) -> None:
    assert check(policy, ("laterality", "pixel_size_mm"), orientation="laterality", spacing="pixel_size_mm") == []
    assert check(policy, ("laterality", "pixel_size_mm")) == []


@pytest.mark.parametrize("name", ["laterality", "Left", "tumour_side", "probe orientation", "right_or_left"])
def test_names_that_tell_sides_are_pointed_out(name: str) -> None:
    (warning,) = check("paper", ("age", name))
    assert re.search(rf"'{name}'.*image\.orientation={name}", warning)


@pytest.mark.parametrize("name", ["pixel_size_mm", "spacing", "mm_per_pixel", "PixelSpacing_"])
def test_names_that_tell_pixel_sizes_are_pointed_out(name: str) -> None:
    warnings = check("light", ("age", name.replace("PixelSpacing_", "pixel-spacing")))
    assert len(warnings) == 1
    assert "image.spacing=" in warnings[0]


@pytest.mark.parametrize(
    ("label", "classes", "sided"),
    [("laterality", ("a", "b"), "laterality"), ("finding", ("left", "right", "none"), "left, right")],
)
def test_labels_that_tell_sides_are_pointed_out(label: str, classes: tuple[str, ...], sided: str) -> None:
    def warned(policy: str) -> list[str]:
        config, log = Config.build({"image": {"augment": policy}}), Log(None, quiet=True)
        columns = [Column(name=label, kind=Kind.CATEGORY, role="label", reason="given")]
        check_policy(config.image, config.image.policy, Schema(columns=columns), log, classes)
        return log.warnings

    (warning,) = warned("medium")
    assert f"sounds as if it told sides ({sided})" in warning
    assert warned("light") == []


def test_other_names_are_not() -> None:
    assert (
        check("medium", ("residence", "upright", "insider", "copyright", "outside", "pixels", "side_effects_x")[:5])
        == []
    )


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"crop": 1e-9}, r"image\.augment\.crop: .*greater than or equal to 0\.05"),
        ({"crop": 1.2}, r"crop of 1\.2 x the picture's side is larger than the picture"),
        ({"flip_horizontal": 1.5}, r"image\.augment\.flip_horizontal: .*less than or equal to 1 \(got 1\.5\)"),
        ({"erase": -0.1}, r"image\.augment\.erase: .*greater than or equal to 0"),
        ({"rotat": 15}, r"image\.augment\.rotat: unknown setting, did you mean 'rotate'"),
        ({"choose": "one"}, r"'one' has nothing to choose from"),
        ({"border": "wrap"}, r"image\.augment\.border"),
        ("mediun", r"'mediun' is no policy, did you mean 'medium'"),
    ],
)
def test_policies_that_cannot_work_are_refused(policy: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.build({"image": {"augment": policy}})


def test_presets_have_their_operations() -> None:
    assert IMAGE_POLICIES["none"].operations == ()
    assert IMAGE_POLICIES["paper"].operations == ("rotate", "flip_horizontal", "flip_vertical")
    assert IMAGE_POLICIES["xray"].operations == (
        "rotate", "shift_x", "shift_y", "brightness", "contrast", "gamma", "noise",
    )  # fmt: skip
