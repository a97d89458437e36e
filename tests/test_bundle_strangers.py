"""Model folders and pretrained weights of strangers: no code, no network, no more memory than they hold, no mixture."""

from __future__ import annotations

import builtins
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from bundle_mutations import BERT, FIRST, HOSTILE, KEYS, ROWS, change, files, fuzz, outcome, repair, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as torch_bytes
from tiny import no_network
from tokenizers import Tokenizer
from torch import Tensor, nn

import fusetune
from fusetune.bundle import contents, weights
from fusetune.bundle.weights import Hashed, filled_network, read_header
from fusetune.encoders import (
    CausalText,
    CellIdentity,
    ColumnsMLP,
    EfficientNetLite,
    Encoder,
    FTTransformer,
    Identity,
    ShallowText,
    SmallCNN,
    SmallTextTransformer,
    TransformersImage,
    TransformersText,
    VectorMLP,
    WordCounts,
    load_image_encoder,
    load_text_encoder,
    train_tokenizer,
)
from fusetune.encoders.pretrained import build_backbone, checked_config, transformers
from fusetune.errors import BundleError, RunError, WeightsError
from fusetune.networks import EnsembleNetwork, build_network

MB = 1 << 20
EVIL = "import os, pathlib; pathlib.Path(os.environ['FLAG']).write_text('run')\nclass Evil: pass\n"
TEXT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50,
        "max_position_embeddings": 32, "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip
GPT = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 50,
       "eos_token_id": 0, "bos_token_id": 0}  # fmt: skip
SEEN = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
PIXELS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "preferred_size": 32, "statistics": "test"}
TEXTS = ("bert", "mpnet", "distilbert", "roberta", "xlm-roberta", "electra", "albert", "deberta-v2", "qwen3", "llama",
         "gemma3_text")  # fmt: skip
IMAGES = {
    **{kind: SEEN | {"intermediate_size": 32} for kind in ("vit", "clip_vision_model", "siglip_vision_model")},
    "dinov2": SEEN,
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
    | {"image_size": 32, "patch_size": 4},
    "convnext": {"depths": [1, 1], "hidden_sizes": [8, 16], "num_stages": 2},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A model with a network of transformers, and what it predicts."""
    folder = small_model(tmp_path_factory.mktemp("source") / "model")
    return folder, fusetune.load(folder).predict_table(ROWS)


@pytest.fixture
def copy(source: tuple[Path, pd.DataFrame], tmp_path: Path) -> Path:
    return Path(shutil.copytree(source[0], tmp_path / "model"))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], bool]]:
    """Refuse questions and connections, and say afterwards whether a stranger's code ran."""
    tried = no_network(monkeypatch)
    monkeypatch.setenv("FLAG", str(tmp_path / "flag"))
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("a question was asked"))
    monkeypatch.setattr("sys.stdin", None)
    yield lambda: (tmp_path / "flag").exists() or "evil" in sys.modules or bool(tried)


def rewritten(folder: Path, edit: Callable[[dict[str, Any]], Any], name: str = "bundle.json") -> Path:
    facts = json.loads((folder / name).read_text(encoding="utf-8"))
    edit(facts)
    (folder / name).write_text(json.dumps(facts), encoding="utf-8")
    repair(folder)
    return folder


def encoder_of(facts: dict[str, Any]) -> Any:
    return facts["network"]["encoders"][0]


# No code, no questions, no network


@pytest.mark.parametrize("key", KEYS)
def test_no_key_of_a_configuration_does_more_than_describe(
    source: tuple[Path, pd.DataFrame], copy: Path, alone: Callable[[], bool], key: str
) -> None:
    (copy / "evil.py").write_text(EVIL)
    rewritten(copy, lambda facts: encoder_of(facts)["config"].update({key: KEYS[key], "_name_or_path": str(copy)}))
    assert outcome(copy, ROWS, source[1]) in ("same", "refused")
    assert not alone()


@pytest.mark.parametrize("kind", ["evil", "aimv2_text_model", "timm_wrapper", "timm_backbone", "detr", "", None, [], 3])
def test_only_architectures_that_transformers_holds_are_built(copy: Path, alone: Callable[[], bool], kind: Any) -> None:
    (copy / "evil.py").write_text(EVIL)
    config = {"model_type": kind, "_name_or_path": str(copy), "auto_map": KEYS["auto_map"], "backbone": "a/b"}
    rewritten(copy, lambda facts: encoder_of(facts).update(config=config))
    with pytest.raises(BundleError):
        fusetune.load(copy)
    assert not alone()


def test_parts_of_a_configuration_are_held_to_the_same() -> None:
    vision = {"model_type": "clip_vision_model", "hidden_size": 24, "auto_map": KEYS["auto_map"], "_name_or_path": "/x"}
    config = checked_config({"model_type": "clip", "vision_config": vision, "attn_implementation": "x/y"})
    assert config.vision_config.hidden_size == 24
    assert not hasattr(config.vision_config, "auto_map")
    assert config._attn_implementation is None
    for part in ({"model_type": "evil"}, {"model_type": "timm_wrapper"}):
        with pytest.raises(ValueError, match="is no architecture of transformers"):
            checked_config({"model_type": "clip", "vision_config": part})
    for nested in ({"auto_map": {}}, {"attn_implementation": "x"}, {"a": {"model_type": "bert"}}, {"a": ["http://x"]}):
        with pytest.raises(ValueError, match=r"has no meaning there|looks like an address"):
            checked_config({"model_type": "llama", "rope_scaling": nested})
    with pytest.raises(ValueError, match="hidden_act looks like an address"):
        checked_config({"model_type": "bert", "hidden_act": "someone/kernel:gelu"})


def test_a_configuration_comes_back_as_it_was() -> None:
    for kind in ("bert", "mpnet", "gpt2", "vit", "swin", "clip", "siglip", "dinov2", "convnext", "modernbert", "llama"):
        plain = transformers().CONFIG_MAPPING[kind]()
        again = checked_config(json.loads(plain.to_json_string(use_diff=False)))
        assert again.to_json_string(use_diff=False) == plain.to_json_string(use_diff=False)


@pytest.mark.parametrize("load", [load_image_encoder, lambda name: load_text_encoder(name, max_tokens=8)])
@pytest.mark.parametrize("known", [True, False])
def test_weights_of_a_stranger_bring_no_code(
    tmp_path: Path, alone: Callable[[], bool], load: Callable[[str], Any], known: bool
) -> None:
    folder = tmp_path / "weights"
    is_image = load is load_image_encoder
    build_backbone({"model_type": "vit", **SEEN} if is_image else BERT).save_pretrained(folder)
    (folder / "evil.py").write_text(EVIL)
    (folder / "tokenizer.json").write_text(train_tokenizer(["a"], vocabulary_size=300).to_str())
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": KEYS["auto_map"] | {"AutoTokenizer": ["evil.Evil", None]}, "attn_implementation": "x/y"}
    config |= {"quantization_config": KEYS["quantization_config"]} | ({} if known else {"model_type": "evil"})
    (folder / "config.json").write_text(json.dumps(config))
    if known:
        load(str(folder))
    else:
        with pytest.raises(WeightsError, match="code that comes with a model is never run"):
            load(str(folder))
    assert not alone()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"[" * 100_000), ("config.json", b"{"), ("config.json", b"[]"), ("config.json", b"{}"),
        ("config.json", b'{"model_type": "bert", "hidden_size": "x"}'), ("model.safetensors", b"x" * 99),
        ("model.safetensors", b""), ("tokenizer.json", b"{"), ("tokenizer.json", b"\xff"), ("modules.json", b"\xff"),
        ("preprocessor_config.json", b"{"), ("preprocessor_config.json", b'{"image_mean": 3, "image_std": "x"}'),
        ("adapter_config.json", b"{"),
    ],
)  # fmt: skip
def test_damaged_weights_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    is_image = name.startswith("preprocessor")
    build_backbone({"model_type": "vit", **SEEN} if is_image else BERT).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(train_tokenizer(["a"], vocabulary_size=300).to_str())
    (tmp_path / name).write_bytes(content)
    if name == "modules.json":
        load_text_encoder(str(tmp_path), max_tokens=8)  # it only says whether vectors are normalised
        return
    with pytest.raises(WeightsError, match=str(tmp_path)):
        load_image_encoder(str(tmp_path)) if is_image else load_text_encoder(str(tmp_path), max_tokens=8)


def test_timm_is_asked_for_architectures_alone(copy: Path, alone: Callable[[], bool], monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "timm", type(sys)("timm"))
    description = {"encoder": "TimmImage", "name": "hf-hub:someone/evil", **PIXELS}
    rewritten(copy, lambda facts: facts["network"]["encoders"].__setitem__(0, description))
    with pytest.raises(BundleError, match="timm has no model 'hf-hub:someone/evil'"):
        fusetune.load(copy)


def test_names_of_code_in_the_configuration_are_not_followed(
    source: tuple[Path, pd.DataFrame], copy: Path, alone: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(copy))
    text = (copy / "config.yaml").read_text().replace("augment: light", "augment: import:evil:Evil", 1)
    assert "import:evil:Evil" in text
    (copy / "config.yaml").write_text(text.replace("name: two-stage", "name: import:evil:Evil"))
    repair(copy)
    assert outcome(copy, ROWS, source[1]) == "same"
    assert not alone()


# No more memory and time than the file holds


def absurd() -> Iterator[tuple[str, Callable[[dict[str, Any]], Any]]]:
    big = 10**7
    for key in ("num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings", "intermediate_size",
                "num_attention_heads", "type_vocab_size"):  # fmt: skip
        for value in (20_000, 10**6, big, 10**12, 10**30, -1, 0):
            yield f"{key} {value}", lambda facts, k=key, v=value: encoder_of(facts)["config"].update({k: v})
    mlp = {"encoder": "ColumnsMLP", "numbers": 1, "categories": [5]}
    for more in ({"width": 20_000}, {"depth": 10**6}, {"depth": 10**12}, {"category_width": big}, {"numbers": big}):
        yield f"cells {more}", lambda facts, m=more: facts["network"]["encoders"].__setitem__(1, mlp | m)
    for other in (
        {"encoder": "FTTransformer", "numbers": 1, "categories": [5], "depth": 10**6},
        {"encoder": "SmallTextTransformer", "vocabulary_size": 10**9, "max_tokens": 10**9},
        {"encoder": "SmallTextTransformer", "vocabulary_size": 10, "max_tokens": 10, "layers": 10**6},
        {"encoder": "WordCounts", "dim": 10**9}, {"encoder": "ShallowText", "vocabulary_size": 10, "hidden": 10**9},
        {"encoder": "Identity", "inputs": 10**12}, {"encoder": "CellIdentity", "numbers": 1, "categories": [10**9]},
        {"encoder": "TransformersText", "config": BERT | {"num_hidden_layers": 10**5}},
        {"encoder": "CausalText", "config": GPT | {"n_positions": 10**5}, "pooling": "flat", "max_tokens": 10**9},
        {"encoder": "TransformersImage", "config": {"model_type": "vit", "image_size": 10**5}, **PIXELS},
        {"encoder": "TransformersImage", "config": {"model_type": "vit"}, **PIXELS | {"preferred_size": 10**6}},
        {"encoder": "TransformersImage", "config": {"model_type": "resnet", "depths": [10**6]}, **PIXELS},
    ):  # fmt: skip
        yield str(other)[:90], lambda facts, o=other: facts["network"]["encoders"].__setitem__(0, o)
    yield "classes", lambda facts: facts["network"]["head"].update(classes=big)
    yield "dims", lambda facts: facts["network"]["head"]["dims"].update(note=big)
    yield "many encoders", lambda facts: facts["network"].update(encoders=facts["network"]["encoders"] * 500)
    yield "ensemble", lambda facts: facts["network"].update(kind="ensemble", classes=big, owners=[], temperatures={})


@pytest.fixture
def bounded() -> Iterator[None]:
    """Fail what takes more than 200 MB, or no end."""

    def stop(*_: Any) -> None:
        raise AssertionError("it takes no end")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * MB / 1024


@pytest.mark.parametrize("edit", [pytest.param(edit, id=name) for name, edit in absurd()])
def test_sizes_are_compared_with_the_weights_before_anything_is_built(
    copy: Path, edit: Callable[[dict[str, Any]], Any], bounded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: list[Any] = []
    monkeypatch.setattr(weights, "_fill", lambda *some: filled.append(some))
    rewritten(copy, edit)
    with pytest.raises(BundleError, match="does not hold a usable model"):
        fusetune.load(copy)
    assert filled == []


DEEP = (b"[" * 10**6, b'{"format": ' * 10**5, b'{"format": 2, "a": ' + b"[" * 10**5, b"9" * 10**5)


@pytest.mark.parametrize("content", DEEP)
def test_deep_manifests_are_refused(copy: Path, content: bytes, bounded: None) -> None:
    (copy / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"bundle\.json is damaged"):
        fusetune.load(copy)


@pytest.mark.parametrize("name", ["bundle.json", "schema.json", "config.yaml", "inputs/0/reader.json",
                                  "inputs/0/tokenizer.json", "weights.safetensors", "seen.safetensors"])  # fmt: skip
@pytest.mark.parametrize("how", ["pipe", "folder", "device", "huge", "outside", "loop"])
def test_only_plain_files_of_the_folder_are_read(copy: Path, name: str, how: str, bounded: None) -> None:
    path = copy / name
    content = path.read_bytes()
    path.unlink()
    match how:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "outside":
            (copy.parent / "outside").write_bytes(content)
            path.symlink_to(copy.parent / "outside")
        case "loop":
            path.symlink_to(path)
        case _:
            path.write_bytes(content)
            os.truncate(path, 1 << 40)
    with pytest.raises(BundleError, match=str(copy)):
        fusetune.load(copy)


def test_links_within_the_folder_are_followed(source: tuple[Path, pd.DataFrame], copy: Path) -> None:
    for path in [path for path in files(copy) if path.name != "bundle.json"]:
        moved = path.with_name(f"moved {path.name}")
        path.rename(moved)
        path.symlink_to(moved)
    assert outcome(copy, ROWS, source[1]) == "same"


def test_a_tokenizer_must_be_listed(copy: Path) -> None:
    rewritten(copy, lambda facts: facts["files"].pop("inputs/0/tokenizer.json"))
    with pytest.raises(BundleError, match=r"does not list inputs/0/tokenizer\.json"):
        fusetune.load(copy)


def test_files_that_no_model_has_are_not_listed(copy: Path) -> None:
    (copy / "more.bin").write_bytes(b"x")
    rewritten(copy, lambda facts: facts["files"].update({"more.bin": hashlib.sha256(b"x").hexdigest()}))
    with pytest.raises(BundleError, match=r"lists more\.bin, which no model of this format has"):
        fusetune.load(copy)


def test_a_panic_of_a_library_is_a_damaged_model(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """As the tokenizers' Rust code raises it."""

    def panic(_: str) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr(Tokenizer, "from_str", panic)
    with pytest.raises(BundleError, match="describes no tokenizer: index out of bounds"):
        fusetune.load(copy)


def test_a_lack_of_memory_is_not_called_damage(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(description: Any, made: list[Any] = []) -> Any:  # noqa: B006 (counts its calls)
        made.append(description)
        if len(made) == 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return build_network(description)

    monkeypatch.setattr(weights, "build_network", fail)
    with pytest.raises(RunError, match="not enough memory for a model of"):
        fusetune.load(copy)


# Each file once, and all of one model


@pytest.mark.parametrize("after", ["schema.json", "config.yaml", "inputs/0/reader.json", "seen.safetensors", "header"])
def test_a_folder_that_is_exchanged_while_it_is_read_gives_no_mixture(
    source: tuple[Path, pd.DataFrame], copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    torch.manual_seed(20)  # each test begins with the same draws, with which the source may have been made
    other = small_model(tmp_path / "other", TransformersText(BERT))
    assert (other / "weights.safetensors").read_bytes() != (copy / "weights.safetensors").read_bytes()
    read, compare = contents.Contents.read, weights._compare

    def exchange() -> None:
        for path in files(other):
            (copy / path.relative_to(other)).write_bytes(path.read_bytes())

    def reading(self: Any, name: str) -> bytes:
        content = read(self, name)
        if name == after:
            exchange()
        return content

    def comparing(*some: Any) -> None:
        compare(*some)
        if after == "header":
            exchange()

    monkeypatch.setattr(contents.Contents, "read", reading)
    monkeypatch.setattr(weights, "_compare", comparing)
    with pytest.raises(BundleError, match="changed"):
        fusetune.load(copy)
    monkeypatch.undo()
    assert outcome(copy, ROWS, source[1]) == "other"  # whole again, as another model


@pytest.mark.parametrize("name", ["../evil.py", "/tmp/evil.py", "model/../../evil.py"])
def test_a_pickled_estimator_writes_into_its_own_folder(name: str) -> None:
    estimator = fusetune.FusionClassifier()
    with pytest.raises(BundleError, match="the pickle holds a file for another folder"):
        estimator.__setstate__({**estimator.__getstate__(), "_bundle": {name: b"x"}})


def test_the_order_within_the_manifest_has_no_meaning(tmp_path: Path) -> None:
    """A program that sorts keys leaves the checksum as it is, which knows no order."""
    folder = small_model(tmp_path / "model")
    network = json.loads((folder / "bundle.json").read_text())["network"]
    assert sorted(network["head"]["dims"]) != list(network["head"]["dims"])
    rows = pd.read_csv(ROWS)
    expected = fusetune.load(folder).predict_table(ROWS)
    rows["organ"] = expected["prediction"]
    judged = fusetune.load(folder).evaluate(rows)
    for order in (sorted, lambda items: sorted(items, reverse=True)):
        (folder / "bundle.json").write_text(
            json.dumps(ordered(json.loads((folder / "bundle.json").read_text()), order))
        )
        assert outcome(folder, ROWS, expected) == "same"
        assert fusetune.load(folder).evaluate(rows) == judged


def ordered(facts: Any, order: Callable[[Any], Any]) -> Any:
    """Return a JSON value with every mapping in another order."""
    if isinstance(facts, dict):
        return {key: ordered(value, order) for key, value in order(facts.items())}
    return [ordered(value, order) for value in facts] if isinstance(facts, list) else facts


def test_the_first_format_states_no_order_and_is_refused_in_another(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FIRST / "model", tmp_path / "model"))
    text = (folder / "bundle.json").read_text()
    (folder / "bundle.json").write_text(json.dumps(json.loads(text), sort_keys=True))
    with pytest.raises(BundleError, match="not in the order in which they were written"):
        fusetune.load(folder)


# Weights arrive as they were


def networks() -> Iterator[tuple[str, Callable[[], Encoder]]]:
    for kind in TEXTS:
        yield kind, lambda kind=kind: TransformersText({"model_type": kind, "pad_token_id": 0, **TEXT})
    for kind, sizes in IMAGES.items():
        yield kind, lambda kind=kind, sizes=sizes: TransformersImage({"model_type": kind, **sizes}, **PIXELS)
    yield "gpt2, last", lambda: CausalText(GPT, "last", 9)
    yield "gpt2, flat", lambda: CausalText(GPT, "flat", 9)
    yield "small cnn", SmallCNN
    yield "lite", lambda: EfficientNetLite(0, mean=[0.1, 0.2, 0.3])
    yield "shallow", lambda: ShallowText(50, width=8, hidden=12)
    yield "small text", lambda: SmallTextTransformer(50, 16, width=16)
    yield "cells", lambda: ColumnsMLP(3, [4, 5], width=8)
    yield "cells themselves", lambda: CellIdentity(3, [4, 5])
    yield "ft-transformer", lambda: FTTransformer(3, [4, 5], width=16, depth=2)
    yield "vector", lambda: VectorMLP(5, width=8)
    yield "identity", lambda: Identity(5)
    yield "words", lambda: WordCounts(7, [0, 1])


def inputs_of(encoder: Encoder) -> Any:
    if isinstance(encoder, SmallCNN | EfficientNetLite | TransformersImage):
        return torch.rand(2, 3, 32, 32)
    if isinstance(encoder, ColumnsMLP | CellIdentity | FTTransformer):
        missing = torch.tensor([[False, True, False], [False, False, False]])
        return {"numbers": torch.randn(2, 3), "missing": missing, "codes": torch.tensor([[0, 3], [2, 1]])}
    if isinstance(encoder, VectorMLP | Identity):
        return torch.randn(2, 5)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    return {"ids": torch.randint(5, 50, (2, 7)), "mask": mask}


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in networks()])
def test_every_network_comes_back_bit_by_bit(make: Callable[[], Encoder], tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = make().eval()
    with torch.no_grad():
        for value in encoder.state_dict().values():
            if value.is_floating_point():
                value.add_(0.01 * torch.rand_like(value))
    network = EnsembleNetwork([encoder], ["a"], [nn.Linear(encoder.dim, 3)], torch.randn(3)).eval()
    path, inputs = tmp_path / "weights", inputs_of(encoder)
    path.write_bytes(torch_bytes({n: tensor.contiguous().clone() for n, tensor in network.state_dict().items()}))
    before = torch.get_rng_state()
    with path.open("rb") as file:
        hashed = Hashed(file)
        loaded = filled_network(json.loads(json.dumps(network.describe())), hashed, path.stat().st_size).eval()
    assert torch.equal(torch.get_rng_state(), before)
    assert hashed.digest() == hashlib.sha256(path.read_bytes()).hexdigest()
    former = build_network(network.describe()).eval()
    former.load_state_dict(network.state_dict())
    assert tensors(loaded).keys() == tensors(former).keys()
    for name, tensor in tensors(former).items():
        assert torch.equal(tensors(loaded)[name], tensor), name
        assert tensors(loaded)[name].dtype == tensor.dtype
    with torch.inference_mode():
        assert torch.equal(loaded.encoders[0](inputs), encoder(inputs))
    assert loaded.describe() == network.describe()


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """All of them: also those that are no part of the weights."""
    return dict(chain(network.named_parameters(), network.named_buffers()))


@pytest.mark.parametrize(
    ("change_one", "said"),
    [
        (lambda state: state.pop("prior"), r"prior: .* is described, nothing is there"),
        (lambda state: state.update(more=torch.zeros(1)), "more: nothing is described"),
        (lambda state: state.update(prior=state["prior"].double()), "prior: .*float32.* is described, .*float64"),
        (lambda state: state.update(prior=state["prior"][:2].clone()), r"prior: .*\(3,\).* is described, .*\(2,\)"),
    ],
)
def test_weights_of_another_network_are_refused(change_one: Callable[[Any], Any], said: str, tmp_path: Path) -> None:
    network = EnsembleNetwork([VectorMLP(5, width=8)], ["a"], [nn.Linear(8, 3)], torch.randn(3))
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    change_one(state)
    path = tmp_path / "weights"
    path.write_bytes(torch_bytes(state))
    with path.open("rb") as file, pytest.raises(ValueError, match=said):
        filled_network(network.describe(), file, path.stat().st_size)


HEADERS = ("{}", "[]", '{"a": 1}', '{"a": {"dtype": "F32"}}')


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300), st.sampled_from(HEADERS))
def test_any_header_is_read_or_refused(content: bytes, length: int, text: str) -> None:
    for data in (content, length.to_bytes(8, "little") + content, len(text).to_bytes(8, "little") + text.encode()):
        try:
            read_header(io.BytesIO(data), len(data))
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            continue


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("inputs/1/reader.json", lambda facts: facts["fitted"]["numbers"][0].update(part="x")),
        ("inputs/1/reader.json", lambda facts: facts["fitted"]["numbers"][0].update(std=0)),
        ("inputs/1/reader.json", lambda facts: facts["fitted"]["categories"][0]["categories"].append("\ud800")),
        ("inputs/1/reader.json", lambda facts: facts["fitted"]["categories"][0]["categories"].append("more")),
        ("inputs/2/reader.json", lambda facts: facts["fitted"]["std"].pop()),
        ("inputs/2/reader.json", lambda facts: facts["fitted"].update(columns=["age"])),
        ("inputs/0/reader.json", lambda facts: facts["fitted"].update(column="site")),
        ("inputs/0/reader.json", lambda facts: facts["fitted"].update(pad=10)),
        ("inputs/0/reader.json", lambda facts: facts["fitted"].update(max_tokens=10**9)),
        ("inputs/0/reader.json", lambda facts: facts.update(size=10**6)),
        ("inputs/0/tokenizer.json", lambda facts: facts["model"]["vocab"].update(more=10**6)),
        ("bundle.json", lambda facts: facts["calibration"].update(temperature=0)),
        ("bundle.json", lambda facts: facts["calibration"].update(positive=3)),
        ("bundle.json", lambda facts: facts["classes"].__setitem__(0, facts["classes"][1])),
        ("bundle.json", lambda facts: facts["classes"].__setitem__(0, "\ud800")),
        ("bundle.json", lambda facts: facts["network"]["wiring"]["features"].update(note=3)),
        ("bundle.json", lambda facts: encoder_of(facts).update(pooling="last")),
        ("bundle.json", lambda facts: encoder_of(facts)["config"].update(num_attention_heads=-1)),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(
    copy: Path, name: str, edit: Callable[[dict[str, Any]], Any]
) -> None:
    rewritten(copy, edit, name)
    with pytest.raises(BundleError, match=r"does not hold a usable model|damaged"):
        fusetune.load(copy)


# At random


@pytest.mark.parametrize("kind", ["first format", "transformers"])
def test_a_changed_folder_predicts_the_same_or_is_refused(
    kind: str, source: tuple[Path, pd.DataFrame], tmp_path: Path, bounded: None
) -> None:
    folder = FIRST / "model" if kind == "first format" else source[0]
    count = dict.fromkeys(("refused", "same", "other", "asks another table"), 0)
    for seed, done, found in fuzz(folder, tmp_path / "work", range(250)):
        signal.alarm(60)
        assert done.consistent or found in ("refused", "same"), f"seed {seed}: {done.what} gives {found}"
        count[found] += 1
    assert count["refused"] > 100
    assert count["same"] > 10


def test_changes_depend_on_the_seed_alone(tmp_path: Path) -> None:
    for name in "ab":
        shutil.copytree(FIRST / "model", tmp_path / name)
    for seed in range(20):
        assert change(tmp_path / "a", random.Random(seed)) == change(tmp_path / "b", random.Random(seed))
        shutil.rmtree(tmp_path / "a")
        shutil.rmtree(tmp_path / "b")
        for name in "ab":
            shutil.copytree(FIRST / "model", tmp_path / name)
    assert len(HOSTILE) > 20
    assert np.isnan([value for value in HOSTILE if isinstance(value, float)]).any()
