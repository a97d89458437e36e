"""Configuration: every problem at once with a hint, layers, shorthands, and files that come back equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fusetune.config import IMAGE_POLICIES, KINDS, PRESETS, Config, ImagePolicy, TrainConfig, read_yaml
from fusetune.errors import ConfigError


def problems(*layers: Any, sets: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as error:
        Config.build(*layers, sets=sets)
    first, *listed = str(error.value).splitlines()
    assert first == f"the configuration has {len(listed)} problem(s):"
    assert all(line.startswith("  - ") for line in listed)
    return [line.removeprefix("  - ") for line in listed]


def test_all_problems_are_named_at_once_with_hints() -> None:
    found = problems(
        {"image": {"sise": 3, "augment": "mediun"}, "text": {"train": {"lr": -1}}, "views": 0},
        {"train": {"epoch": 3}, "hed": {"kind": "logistic"}, "split": {"fractions": [0.5, 0.2, 0.2]}},
        sets=("seed", "preset=god", "columns.width=x"),
    )
    expected = [
        "--set seed: write it as KEY=VALUE, for example --set train.epochs=3",
        "train.epoch: unknown setting, did you mean 'epochs'?",
        "preset: input should be 'quick', 'good', 'best' or 'paper' (got 'god'), did you mean 'good'?",
        "views: input should be greater than or equal to 1 (got 0)",
        "split: fractions must be three positive numbers that sum to 1",
        "image.sise: unknown setting, did you mean 'size'?",
        "text.train.lr: input should be greater than 0 (got -1)",
        "columns.width: input should be a valid integer, unable to parse string as an integer (got 'x')",
        "hed: unknown setting, did you mean 'head'?",
    ]
    assert sorted(line for line in found if "policy" not in line) == sorted(expected)
    policy = next(line for line in found if "policy" in line)
    assert policy.startswith("image.augment: 'mediun' is no policy, did you mean 'medium'?; known: none, paper, light,")
    assert len(found) == len(expected) + 1


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({"image": {"augment": {"rotat": 3}}}, "image.augment.rotat: unknown setting, did you mean 'rotate'?"),
        ({"image": {"encoder": {"a": 1}}}, "image.encoder: input should be a valid string"),
        (
            {"data": {"class_weights": "balancd"}},
            "data.class_weights: input should be 'none' or 'balanced' (got 'balancd')",
        ),
        ({"data": {"class_weights": {"a": "x"}}}, "data.class_weights.a: input should be a valid number"),
        ({"split": {"how": "time"}}, "split: how: time needs the column's name in split.time"),
        ({"split": {"fold": 5}}, "split: fold must be below folds (5)"),
        ({"text": {"train": {"mix": {"kind": "cutmix"}}}}, "text.train: mix.kind cutmix pastes rectangles of pictures"),
        ({"image": {"train": {"mix": {"kind": "mixup"}, "batch_size": 1}}}, "image.train: mix.kind mixup mixes rows"),
        ({"head": {"mix": {"kind": "mixup"}}}, "head: mix.kind mixup needs batches, and kind logistic is solved"),
        ({"head": {"kind": "mlp", "mix": {"kind": "cutmix"}}}, "head: mix.kind cutmix pastes rectangles of pictures"),
        ({"vector": {"augment": {"missing": 0.1}}}, "vector.augment: missing must be 0: a number of a vector has no"),
        ({"train": 3}, "train must be a mapping such as 'train: {epochs: 3}'"),
        ({"image": None}, "image: input should be a valid dictionary"),
        ({"trainn": {}}, "trainn: unknown setting, did you mean 'train'?"),
        ({1: 2}, "1: keys should be strings"),
    ],
)
def test_one_mistake_is_one_problem(layer: dict[Any, Any], said: str) -> None:
    (found,) = problems(layer)
    assert found.startswith(said)


def test_a_kind_may_differ_within_a_section_of_train() -> None:
    config = Config.build({"train": {"mix": {"kind": "mixup"}}, "text": {"train": {"mix": {"alpha": 2}}}})
    assert {kind: getattr(config, kind).train.mix.kind for kind in KINDS} == dict.fromkeys(KINDS, "mixup")
    assert [getattr(config, kind).train.mix.alpha for kind in KINDS] == [0.2, 2, 0.2, 0.2]


def test_a_setting_of_train_is_one_of_every_kind() -> None:
    config = Config.build({"train": {"epochs": 3, "lr": 0.5}, "text": {"train": {"epochs": 7}}})
    assert {kind: getattr(config, kind).train.epochs for kind in KINDS} == {
        "image": 3,
        "text": 7,
        "columns": 3,
        "vector": 3,
    }
    assert {getattr(config, kind).train.lr for kind in KINDS} == {0.5}
    assert config.columns.train.batch_size == Config().columns.train.batch_size


def test_later_layers_win_and_settings_come_last(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("views: 2\nimage:\n  train: {epochs: 9, lr: 1e-5}\nseed: 4\n", encoding="utf-8")
    config = Config.build({"views": 1, "seed": 3, "onnx": False}, file, None, {"seed": 5}, sets=["train.epochs=2"])
    assert (config.views, config.seed, config.onnx) == (2, 5, False)
    assert (config.image.train.epochs, config.image.train.lr) == (2, 1e-5)
    assert config.text.train.epochs == 2
    again = Config.build(str(file), sets=["train.epochs=2", "image.train.epochs=6"])
    assert (again.image.train.epochs, again.text.train.epochs) == (6, 2)


def test_a_preset_lies_between_defaults_and_what_is_given() -> None:
    assert Config.build() == Config()
    paper = Config.build({"preset": "paper"})
    assert (paper.preset, paper.image.train.optimiser, paper.image.size, paper.views) == ("paper", "sgd", 224, 1)
    assert Config.build({"image": {"size": 64}}, {"preset": "paper"}).image.size == 64
    assert Config.build({"preset": "paper"}, sets=["preset=quick"]).preset == "quick"
    assert Config.build({"preset": "paper"}, sets=["preset=quick"]).image.train.optimiser == "adamw"
    fast = Config.build({"preset": "quick"})
    assert (fast.image.train.epochs, fast.text.train.epochs, fast.views) == (0, 0, 1)
    assert Config.build({"preset": "quick", "train": {"epochs": 1}}).columns.train.epochs == 1


def test_the_paper_preset_leaves_nothing_of_its_image_training_to_changing_defaults() -> None:
    # Checkpoints that are kept do not change a result.
    assert set(PRESETS["paper"]["image"]["train"]) == set(TrainConfig.model_fields) - {"keep"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_saved_configuration_comes_back_equal(tmp_path: Path, preset: str) -> None:
    config = Config.build(
        {"preset": preset, "image": {"augment": {"rotate": 5}}, "split": {"time": "1e5"}, "store": {"folder": "off"}},
        {"data": {"class_weights": {"yes": 2, "1e-3": 1, 0: 3, "日本": 1}}, "text": {"train": {"lr": 1e-5}}},
    )
    assert config.data.class_weights == {"yes": 2.0, "1e-3": 1.0, "0": 3.0, "日本": 1.0}
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    for layer in (
        path,
        str(path),
        config,
        read_yaml(config.to_yaml()),
        config.model_dump(),
        config.model_dump(mode="json"),
    ):
        assert Config.build(layer) == config
    plain = Config.build({"preset": preset})
    assert Config.build(read_yaml(plain.to_yaml())) == plain
    assert read_yaml(plain.to_yaml()) == plain.model_dump(mode="json")


@pytest.mark.parametrize(
    ("item", "name", "value"),
    [
        ("image.train.lr=1e-4", "image.train.lr", 1e-4),
        ("views = 7", "views", 7),
        ("onnx=false", "onnx", False),
        ("threads=null", "threads", None),
        ("crossfit.how=off", "crossfit.how", "off"),
        ("split.fractions=[0.6, 0.2, 0.2]", "split.fractions", (0.6, 0.2, 0.2)),
        ("image.augment=none", "image.augment", "none"),
        ("image.augment.rotate=3", "image.augment", IMAGE_POLICIES["light"].model_copy(update={"rotate": 3.0})),
        ("image.encoder=a=b", "image.encoder", "a=b"),
        ("data.class_weights.1=2", "data.class_weights", {"1": 2.0}),
        ("data.class_weights={a: 1, b: 2}", "data.class_weights", {"a": 1.0, "b": 2.0}),
        ("precision='32'", "precision", "32"),
    ],
)
def test_settings_on_the_command_line(item: str, name: str, value: Any) -> None:
    found: Any = Config.build(sets=[item])
    for part in name.split("."):
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (["views"], "--set views: write it as KEY=VALUE"),
        (["=3"], "--set =3: write it as KEY=VALUE"),
        (["views=["], "--set views=[: the value is not valid YAML; quote it, as in --set 'views=\"text\"'"),
        (["image.size=100", "image.size.x=3"], "--set image.size.x=3: 'size' was already set to a single value"),
        (["image.siz=3"], "image.siz: unknown setting, did you mean 'size'?"),
    ],
)
def test_settings_that_cannot_be_read(items: list[str], said: str) -> None:
    assert any(line.startswith(said) for line in problems(sets=tuple(items)))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    for content, said in (
        (b"a: [", "is not valid YAML"),
        (b"- 1", "must hold a mapping"),
        (b"\xff\xfe\x00", "not valid YAML"),
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=said):
            Config.build(path)
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*gone\.yaml: No such file"):
        Config.build(tmp_path / "gone.yaml")
    path.write_text("", encoding="utf-8")
    assert Config.build(path) == Config()


def bomb(levels: int = 10, width: int = 10) -> str:
    """Return YAML whose last value has width ** levels items, in some hundred bytes."""
    lines = [f"x0: &a0 [{','.join('x' * width)}]"]
    lines += [f"x{i}: &a{i} [{','.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join([*lines, f"views: *a{levels - 1}"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb(), r"line 2: \*name repeats another value; write the value out"),
        ("a: &x {b: 1}\nc:\n  <<: *x", r"line 3: \*name repeats"),
        ("a: &x [*x]", r"line 1: \*name repeats"),
        ("views: 3\nseed: 1\nviews: 4", "line 3: 'views' is given twice, first in line 1"),
        ("image:\n  size: 32\n  'size': 64", "line 3: 'size' is given twice, first in line 2"),
        ("{a: 1, a: 1}", "line 1: 'a' is given twice"),
        ("a:\n- " + "[" * 60, "line 2: values are nested more than 50 deep"),
        ("[" * 100_000, "line 1: values are nested more than 50 deep"),
        ("{a: " * 100_000, "line 1: values are nested more than 50 deep"),
        ("\n" + "- " * 10_000, "line 2: values are nested more than 50 deep"),
        ("a: 1\nviews: " + "9" * 5000, "line 2: cannot be read as .*int"),
        ("a: 1\nviews: 0x" + "f" * 5000, "line 2: the number is too large"),
        ("views: " + "9" * 40, "line 1: the number is too large"),
        ("a: 2026-13-45", "line 1: cannot be read as .*timestamp"),
        ("a: 1\nb: !!int x", "line 2: cannot be read as .*int"),
        ("b: !!bool x", "line 1: cannot be read as .*bool"),
        ("b: !!python/object/apply:os.system [ls]", "line 1: could not determine a constructor"),
        ("a: 1\n\tb: 2", r"line 2: .*found (a tab )?character"),
        ("a: 1\nb: x\x00", r"line 2: a character that no text holds \(code 0\)"),
        ("a: 1\n--- \nb: 2", "line 2: .*another document"),
        ("? [a]\n: 1", "line 1: .*unhashable key"),
        ("false", "must hold a mapping .* not a bool"),
        ("[]", "must hold a mapping .* not a list"),
        ("# x\n" * 300_000, "is longer than 1,048,576 bytes"),
    ],
)
def test_what_a_file_can_blow_up_is_refused_where_it_stands(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said) as caught:
        Config.build(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 500


def test_bytes_that_are_no_utf8_are_named_by_their_line(tmp_path: Path) -> None:
    for content in ("a: 1\nb: ü".encode("latin-1"), b"a: 1\n\xff"):
        (tmp_path / "c.yaml").write_bytes(content)
        with pytest.raises(ConfigError, match=r"c\.yaml is not valid YAML: line 2 is not UTF-8 text"):
            Config.build(tmp_path / "c.yaml")


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "."])
def test_names_of_files_that_cannot_be(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        Config.build(name)


def test_values_are_cut_short_in_messages() -> None:
    nested: Any = "x"
    for _ in range(60):
        nested = [nested] * 10  # 10 ** 60 items, which share their memory
    for value in (nested, "x" * 10**6, 10**5000, [0] * 10**6, {"a": nested}):
        found = problems({"views": value, "image": {"encoder": value if not isinstance(value, str) else 1}})
        assert all(len(line) < 400 for line in found)
    with pytest.raises(ConfigError, match=r"has 3000 problem\(s\)") as caught:
        Config.build({f"x{i}": 1 for i in range(3000)})
    assert len(str(caught.value).splitlines()) == 51


PIECES = (
    *(
        "views",
        ": ",
        "\n",
        "  ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "!!int ",
        "<<",
        "0x",
        "1e9",
        "?",
        "|",
        ">",
        "'",
    ),
    *('"', "#", "%", "---", ",", "image", "~", "2026-02-30"),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=30).map("".join), st.binary(max_size=60)))
@example("0[:")
def test_any_file_is_a_configuration_or_a_named_fault(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content.encode("utf-8", "replace") if isinstance(content, str) else content)
    try:
        Config.build(path)
    except ConfigError as error:
        assert len(str(error)) < 5000


def test_building_changes_neither_its_layers_nor_the_defaults() -> None:
    before = Config()
    layer = {"image": {"train": {"epochs": 1}, "augment": {"rotate": 9}}, "crossfit": {"how": "k"}}
    first = Config.build(layer)
    first.image.train.epochs = 99
    first.image.policy.rotate = 100
    assert layer == {"image": {"train": {"epochs": 1}, "augment": {"rotate": 9}}, "crossfit": {"how": "k"}}
    assert Config() == before
    assert Config.build(layer).image.train.epochs == 1


def test_values_are_checked_on_assignment_too() -> None:
    config = Config()
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        config.image.train.epochs = -1


def test_policies_by_name_and_by_value() -> None:
    for name, policy in IMAGE_POLICIES.items():
        assert Config.build(sets=[f"image.augment={name}"]).image.policy == policy
    assert Config.build({"image": {"augment": {"erase": 1}}}).image.policy == ImagePolicy(erase=1)


def test_a_preset_beside_a_complete_configuration_of_another_is_refused() -> None:
    with pytest.raises(ConfigError, match="'quick' is asked for beside a complete configuration of 'paper'"):
        Config.build(Config.build({"preset": "paper"}), {"preset": "quick"})
    assert Config.build(Config(preset="quick")).image.train.epochs == 0


def test_the_policy_of_the_doctor_knows_its_kinds_and_what_can_be_done() -> None:
    assert Config.build(sets=["doctor.policy.image_empty=mask"]).doctor.policy["image_empty"] == "mask"
    assert Config.build({"doctor": {"policy": {"image_tiny": "drop"}}}).doctor.policy["duplicate_rows"] == "drop"
    with pytest.raises(ConfigError, match="'image_emty' is no kind of finding, did you mean 'image_empty'"):
        Config.build(sets=["doctor.policy.image_emty=mask"])
    with pytest.raises(ConfigError, match="'drop' is not possible for label_errors; use error or keep"):
        Config.build(sets=["doctor.policy.label_errors=drop"])


def test_a_mapping_is_a_policy_of_its_own_and_a_set_changes_the_named_one() -> None:
    alone = Config.build({"image": {"augment": {"rotate": 3}}}).image.policy
    assert alone == ImagePolicy(rotate=3)
    changed = Config.build({"image": {"augment": "scan"}}, sets=["image.augment.rotate=3", "views=2"]).image.policy
    assert changed == IMAGE_POLICIES["scan"].model_copy(update={"rotate": 3.0})
    added = Config.build({"image": {"augment": {"rotate": 3}}}, sets=["image.augment.blur=1"]).image.policy
    assert added == ImagePolicy(rotate=3, blur=1)
