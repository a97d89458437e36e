"""Whole experiments: what the flaws do to validation and test scores, and what the command prints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made import HEAD, IMAGE, TEXT, command, place, recipe, run, streams, titles

from fusetune.data.table import Table
from fusetune.errors import ConfigError
from fusetune_papers.cli.experiments import _recipes
from fusetune_papers.datasets.baselines import constant_accuracy
from fusetune_papers.phantom.draw import write_phantom
from fusetune_papers.phantom.knobs import Knobs
from fusetune_papers.reproduce.alone import Scores
from fusetune_papers.reproduce.flaws import PHANTOM, flaws_of
from fusetune_papers.reproduce.head import Frozen, Predict
from fusetune_papers.reproduce.material import TASKS, Material, load_material, material_of
from fusetune_papers.reproduce.recipe import Recipe, TextStage, recipe_names
from fusetune_papers.reproduce.report import ranges
from fusetune_papers.reproduce.series import Series


def memorable(count: int = 60, frames: int = 6) -> Material:
    """Return sentences that tell the stream, not the target: each stream has one target, a tenth of the rows another.

    A network that memorises does well on frames of streams it knows, perfectly on rows it knows, and by chance on new
    streams.
    """
    generator = np.random.default_rng(3)
    rows = []
    for stream in range(count):
        for number in range(frames):
            odd = generator.random() < 0.1
            words = f"sweep stream{stream} " + (f"oddity{stream}x{number}" if odd else "")
            target = (stream * 7 % count < count // 2) ^ odd
            rows.append({"id": f"s{stream:02d}/{number}", "stream": f"s{stream:02d}", "frame": number, "text": words,
                         "head": int(target), **place(stream)})  # fmt: skip
    return material_of(PHANTOM, Table(pd.DataFrame(rows), "made up", Path()), "head")


def text_series(material: Material, flaws: frozenset[str], folder: Path) -> Series:
    stage = TextStage(epochs=30, batch_size=64, lr=5e-3)
    return run(material, [recipe(stage="text", encoder=None, head=None, text=stage)], flaws, folder)


def test_the_flaws_inflate_and_the_repairs_do_not(tmp_path: Path) -> None:
    material = memorable()
    published = text_series(material, flaws_of(PHANTOM), tmp_path)
    sound = text_series(material, frozenset(), tmp_path)
    (bad,), (good,) = published.outcomes, sound.outcomes
    assert bad.test.value > good.test.value + 0.25  # by frame against by stream
    assert bad.valid.value > bad.test.value  # validation rows are training rows
    assert good.test.low <= good.valid.value <= good.test.high
    assert published.facts is not None
    assert sound.facts is not None
    assert published.facts.shared > 0.9 * published.facts.streams
    assert sound.facts.shared == 0


def test_experiments_share_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_phantom(tmp_path / "synthetic", Knobs(streams=10, frames=6, width=64))
    material = load_material(PHANTOM, tmp_path / "synthetic", "head")
    trained = []
    from fusetune_papers.reproduce import series as module

    real = module.fine_tune
    monkeypatch.setattr(module, "fine_tune", lambda *args: trained.append(args) or real(*args))
    image = IMAGE.model_copy(update={"epochs": 1})
    plans = [
        recipe(stage="image", image=image, head=None),
        recipe(image=image, text=TEXT, side=("place", "text"), head=HEAD),
        recipe(title="as pretrained"),
    ]
    series = run(material, plans, flaws_of(PHANTOM), tmp_path, "paper")
    assert len(trained) == 1
    assert [outcome.rows["test"] for outcome in series.outcomes] == [12, 12, 12]
    assert all(0 <= outcome.test.value <= 1 for outcome in series.outcomes)
    json.dumps([outcome.as_dict() for outcome in series.outcomes])


def test_the_list_names_every_experiment_and_flaw() -> None:
    code, text = command("--list")
    assert code == 0
    assert all(f"L{number} " in text for number in range(1, 17))
    assert len(recipe_names()) == 14


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("fpus32", "--data", "x"), "did you mean 'fpus23'"),
        (("fpus23",), "--data DIR"),
        (("fpus23", "--data", "x", "--recipe", "papers"), "did you mean 'paper'"),
        (("fpus23", "--data", "x", "--flaws", "L6"), "no text network"),
        (("fpus23", "--data", "x"), "there is no folder x"),
        (("fpus23", "--data", "x", "--task", "arm"), "did you mean 'arms'"),
        (("upmc-food101", "--data", "x", "--only", "fpus23-unimodal-vit"), "--only"),
        (("fpus23", "--data", "x", "--recipe", "paper", "--flaws", "L1"), "leave --recipe out"),
        (("fpus23", "--data", "x", "--missing", "drp"), "did you mean 'drop'"),
    ],
)
def test_wrong_input_is_explained(words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = command(*words)
    assert code == 2
    assert expected in (text + capsys.readouterr().err).replace("\n", " ")


def test_both_recipes_on_a_phantom_and_the_files_they_leave(tmp_path: Path) -> None:
    folder = tmp_path / "synthetic"
    write_phantom(folder, Knobs(streams=10, frames=6, width=64))
    file = tmp_path / "results.json"
    code, text = command("phantom", "--data", str(folder), "--task", "head", "--quick", "--json", str(file))
    assert code == 0
    assert "drawn, not scanned" in text
    assert "SYNTHETIC frames; test accuracy" in text
    caption = " ".join(text.split())
    assert "fine-tuned image + name + sentence: L1-L6, L8-L14, L16" in caption
    assert "sentence alone, shallow network: L1-L2, L4-L5, L9" in caption
    assert "487,415" in text
    words = text.replace("\n", " ")
    assert "head, paper: no baseline (L2); LEAK by stream" in words
    assert "head, sound: no leak by stream" in words
    assert "also have training frames; the doctor: group_across_parts" in words
    assert "has training frames, and the doctor finds no error" in words
    written = json.loads(file.read_text())
    assert written["quick"] is True
    assert {row["form"] for row in written["outcomes"]} == {"paper", "sound"}
    assert {row["recipe"] for row in written["outcomes"]} == {name for name in recipe_names() if "phantom" in name}
    assert all(row["synthetic"] for row in written["outcomes"])
    assert {row["encoder"] for row in written["outcomes"]} == {"builtin", "shallow", "builtin + shallow"}
    assert all(set(row["test"]) == {"value", "low", "high"} for row in written["outcomes"])


def test_single_flaws_are_compared_with_sound(tmp_path: Path) -> None:
    folder = tmp_path / "synthetic"
    write_phantom(folder, Knobs(streams=10, frames=6, width=64))
    code, text = command("phantom", "--data", str(folder), "--task", "head", "--quick", "--only", "phantom-text",
                         "--flaws", "L5,L1,L13")  # fmt: skip
    assert code == 0
    assert "L13 (" not in text  # which does nothing where only sentences are read
    for words in ("L1 (split by frame)", "L5 (validation rows are training rows)", "L1, L5 (together)"):
        assert words in text.replace("\n", " ")


def test_flaws_are_named_in_short() -> None:
    assert ranges([f"L{number}" for number in (1, 2, 3, 4, 5, 6, 8, 16, 14, 13)]) == "L1-L6, L8, L13-L14, L16"
    assert ranges([]) == ""


def test_what_was_found_before_a_failure_is_shown_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = tmp_path / "synthetic", tmp_path / "results.json"
    write_phantom(folder, Knobs(streams=10, frames=6, width=64))

    def fail(*_: object) -> None:
        raise ConfigError("no more")

    monkeypatch.setattr("fusetune_papers.reproduce.series.fuse", fail)
    code, text = command("phantom", "--data", str(folder), "--task", "head", "--quick", "--json", str(file),
                         "--recipe", "sound")  # fmt: skip
    assert code == 2
    assert "no more" in text + capsys.readouterr().err
    assert [row["recipe"] for row in json.loads(file.read_text())["outcomes"]] == ["phantom-image"]
    assert "image alone" in text


def test_absent_weights_are_noticed_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "titles"
    folder.mkdir()
    titles().table.frame.assign(image_path_original="").to_csv(folder / "manifest.csv", index=False)
    monkeypatch.setattr("fusetune_papers.reproduce.series.text_scores", lambda *_: pytest.fail("something was trained"))
    code, text = command("upmc-food101", "--data", str(folder), "--recipe", "paper")
    message = " ".join((text + capsys.readouterr().err).split())
    assert code != 0
    assert "nothing was trained: - text alone, GPT-2 (food101-text-gpt2)" in message
    assert "With --allow-download" in message


def test_flaws_of_pictures_are_named_where_there_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    titles().table.frame.assign(image_path_original="").to_csv(tmp_path / "manifest.csv", index=False)
    code, text = command("upmc-food101", "--data", str(tmp_path), "--quick", "--only", "food101-text-shallow",
                         "--flaws", "l10,L9")  # fmt: skip
    assert code == 0
    assert "nothing is measured of L10" in " ".join((text + capsys.readouterr().err).split())


def test_another_encoder_is_named_in_every_title_and_l15_takes_the_published_batches() -> None:
    (fused,) = _recipes(["food101-multimodal-resnet50"], "sound", "builtin", False, True, frozenset())
    assert fused.title.endswith("(here: builtin)")
    assert fused.head is not None
    assert fused.head.batch_size == 24
    (unequal,) = _recipes(["food101-multimodal-resnet50"], "sound", None, False, True, frozenset({"L15"}))
    assert unequal.head is not None
    assert unequal.image is not None
    assert (unequal.head.batch_size, unequal.image.batch_size) == (60, 64)


def test_side_information_is_ordinal_with_l14_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, int] = {}

    def fuse(image: Frozen, recipe: Recipe, side: dict[str, Scores]) -> Predict:
        seen["ordinal" if image.lab.on("L14") else "sound"] = side["place"].all.shape[1]
        classes = len(image.run.classes)
        return lambda rows: np.full((len(rows), classes), 1 / classes)

    monkeypatch.setattr("fusetune_papers.reproduce.series.fuse", fuse)
    material = streams(tmp_path)
    for flaws in (frozenset({"L14"}), frozenset[str]()):
        run(material, [recipe(image=None)], flaws, tmp_path)
    assert seen == {"ordinal": 4, "sound": 8}


def test_baselines_on_the_real_annotations(shared_data: object, tmp_path: Path) -> None:
    folder = shared_data("fpus23_annotations")  # type: ignore[operator]
    material = load_material("fpus23", folder, "head")
    series = [run(material, [], flaws, tmp_path) for flaws in (frozenset({"L1"}), frozenset[str]())]
    by_frame, by_stream = (s.facts for s in series)
    table = material.table
    constants = {
        task: [round(constant_accuracy(table.frame[task], table.frame[by]), 4) for by in ("stream", "location")]
        for task in TASKS["phantom"]
    }
    assert by_frame is not None
    assert [round(value, 4) for value in by_frame.constants] == constants["head"]
    assert constants == {
        "head": [0.9606, 0.9053], "abdomen": [0.9129, 0.8293], "arms": [0.9248, 0.8735], "legs": [0.9706, 0.9248]
    }  # fmt: skip
    assert by_frame is not None
    assert by_stream is not None
    assert by_frame.nearest >= 0.993
    assert by_frame.distance == pytest.approx(1.19, abs=0.03)
    assert by_frame.shared == by_frame.streams == 39
    assert by_stream.shared == 0
    assert by_stream.nearest < 0.8
    assert {finding.kind for finding in by_frame.errors} == {"group_across_parts", "neighbours_across_parts"}
    assert not by_stream.errors
