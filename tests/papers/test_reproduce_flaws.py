"""The sixteen switches, the printed numbers, the recipes and the cost, against the published procedure."""

from __future__ import annotations

import pytest

from fusetune.errors import ConfigError
from fusetune.evaluate.intervals import wilson
from fusetune.train.optim import rate_factor
from fusetune_papers.reproduce.flaws import DATA, FLAWS, FOOD101, FPUS23, PHANTOM, chosen, flaws_of, in_order
from fusetune_papers.reproduce.lab import image_policy
from fusetune_papers.reproduce.recipe import CIFAR_MEAN, CIFAR_STD, load_recipe, quicker, recipe_names, recipes_of
from fusetune_papers.reproduce.report import published_passes, stored_passes

PRINTED = {r.notebook: r.printed for name in recipe_names() if (r := load_recipe(name, "paper")).notebook and r.printed}


def test_there_are_sixteen_switches_in_order() -> None:
    assert list(FLAWS) == [f"L{number}" for number in range(1, 17)]
    assert all(flaw.title and flaw.evidence and flaw.repair for flaw in FLAWS.values())
    assert in_order({"L10", "L2", "L1"}) == ["L1", "L2", "L10"]


@pytest.mark.parametrize("data", DATA)
def test_every_switch_is_part_of_an_experiment_or_says_why_not(data: str) -> None:
    for name, flaw in FLAWS.items():
        assert (name in flaws_of(data)) == (data not in flaw.elsewhere)
        assert all(len(reason) > 20 for reason in flaw.elsewhere.values())


def test_the_published_experiments_have_these_flaws() -> None:
    assert flaws_of(FPUS23) == {"L1", "L2", "L10", "L11", "L12", "L13", "L14", "L16"}
    assert set(FLAWS) - flaws_of(FOOD101) == {"L1", "L2", "L11", "L14"}
    assert set(FLAWS) - flaws_of(PHANTOM) == {"L7", "L15"}


def test_chosen_switches_are_checked() -> None:
    assert chosen(["l4", " L5 "], FOOD101) == {"L4", "L5"}
    with pytest.raises(ConfigError) as error:
        chosen(["L4", "L44", "L14"], FOOD101)
    assert "'L44' is no flaw, did you mean 'L4'?" in str(error.value)
    assert "L14" in str(error.value)
    assert FLAWS["L14"].elsewhere[FOOD101] in str(error.value)


def test_one_recipe_per_notebook_in_both_forms() -> None:
    for form in ("paper", "sound"):
        numbers = [load_recipe(name, form).notebook for name in recipe_names()]  # type: ignore[arg-type]
        assert sorted(n for n in numbers if n) == list(range(1, 12)) == sorted(PRINTED)


@pytest.mark.parametrize(
    ("notebook", "image", "head", "text"),
    [
        (1, (5, 20), None, None),
        (2, (5, 20), (3, 20), None),
        (3, None, (3, 20), None),
        (4, None, (3, 20), None),
        (5, (5, 64), None, None),
        (6, (5, 30), None, None),
        (7, None, None, (10, 128, 1e-3)),
        (8, None, None, (3, 120, 1e-5)),
        (9, (5, 64), (5, 60), (10, 128, 1e-3)),
        (10, (5, 30), (5, 24), (10, 128, 1e-3)),
        (11, None, (5, 24), (10, 128, 1e-3)),
    ],
)
def test_settings_of_the_notebooks(notebook: int, image: object, head: object, text: object) -> None:
    (recipe,) = [r for data in (FPUS23, FOOD101) for r in recipes_of(data, "paper") if r.notebook == notebook]
    assert (recipe.image and (recipe.image.epochs, recipe.image.batch_size)) == image
    assert (recipe.head and (recipe.head.epochs, recipe.head.batch_size)) == head
    assert (recipe.text and (recipe.text.epochs, recipe.text.batch_size, recipe.text.lr)) == text
    assert (recipe.size, recipe.canvas) == (224, 244)
    for stage in (recipe.image, recipe.head):
        if stage:
            settings = stage.training()
            assert (settings.optimiser, settings.lr, settings.head_lr) == ("sgd", 5e-4, 5e-4)
            assert (settings.momentum, settings.weight_decay, settings.clip) == (0.9, 0.0, 0.0)
            assert {rate_factor(step, 100, settings) for step in range(100)} == {1.0}  # StepLR(7) never fires
            assert (settings.dropout, settings.label_smoothing, settings.patience) == (0.0, 0.0, 0)
            assert (settings.accumulate, settings.average, settings.freeze, settings.lora_rank) == (1, 0.0, 0.0, 0)
    if recipe.text:
        assert recipe.text.training().optimiser == "adamw"  # without weight decay: Adam
        assert recipe.text.training().weight_decay == 0.0
        assert recipe.text.encoder == ("gpt2" if notebook == 8 else "shallow")


def test_what_stands_beside_the_image() -> None:
    sides = {r.notebook: r.side for data in (FPUS23, FOOD101) for r in recipes_of(data, "paper")}
    assert {n for n, side in sides.items() if side == ("place",)} == {2, 3}
    assert {n for n, side in sides.items() if side == ("text",)} == {9, 10, 11}


def test_gpt2_is_flattened_as_published_and_pooled_in_the_sound_form() -> None:
    paper, sound = (load_recipe("food101-text-gpt2", form).text for form in ("paper", "sound"))  # type: ignore[arg-type]
    assert paper is not None
    assert sound is not None
    assert (paper.pooling, paper.max_tokens, sound.pooling) == ("flat", 64, "last")
    assert sound.epochs == paper.epochs


def test_the_transform_is_the_published_one() -> None:
    recipe = load_recipe("fpus23-unimodal-vit", "paper")
    policy = image_policy(recipe, flips=True)
    assert (policy.rotate, policy.crop) == (15, 224 / 244)
    assert (policy.flip_horizontal, policy.flip_vertical) == (0.5, 0.5)
    assert (policy.scale, policy.translate, policy.brightness, policy.contrast, policy.erase) == (0, 0, 0, 0, 0)
    still = image_policy(recipe, flips=False)
    assert (still.flip_horizontal, still.flip_vertical, still.rotate) == (0, 0, 15)
    assert CIFAR_MEAN == (0.507, 0.487, 0.441)
    assert CIFAR_STD == (0.267, 0.256, 0.276)


def test_an_unknown_recipe_is_refused_with_a_guess() -> None:
    with pytest.raises(ConfigError, match="did you mean 'food101-text-gpt2'"):
        load_recipe("food101-text-gpt", "paper")


def test_quicker_recipes_keep_their_shape() -> None:
    for name in recipe_names():
        recipe, quick = load_recipe(name, "paper"), quicker(load_recipe(name, "paper"))
        assert (quick.stage, quick.side, quick.notebook) == (recipe.stage, recipe.side, recipe.notebook)
        assert quick.encoder == (recipe.encoder and "builtin")


def test_printed_numbers_are_whole_rows_and_their_intervals() -> None:
    assert [PRINTED[n].correct for n in (1, 2, 3, 4)] == [2913, 2928, 2588, 2592]
    assert PRINTED[7].correct == 18935
    for notebook, low, high in ((1, 0.957, 0.970), (2, 0.962, 0.975), (3, 0.844, 0.869), (4, 0.845, 0.870)):
        interval = PRINTED[notebook].interval
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=6e-4)
    assert wilson(round(0.9264 * 22716), 22716) == pytest.approx((0.9229, 0.9297), abs=1e-4)


def test_printed_curves_have_their_epochs() -> None:
    for name in recipe_names():
        recipe = load_recipe(name, "paper")
        if recipe.notebook:
            stage = recipe.head or recipe.image or recipe.text
            assert stage is not None
            assert len(PRINTED[recipe.notebook].train) == stage.epochs


def test_cost_on_the_whole_of_food101() -> None:
    assert published_passes(67970, 6797, 22716, epochs=5) == 487_415
    for views, passes in ((1, 90_687), (2, 151_861), (5, 335_383)):
        assert stored_passes(61174, 6797, 22716, views) == passes
