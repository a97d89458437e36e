"""What is wrong with a cluster is said within seconds, before anything is read; no cluster is started here."""

from __future__ import annotations

import importlib.util
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from documents import ROOT
from typer.testing import CliRunner

from fusetune.cli import app
from fusetune.cluster import engine, nodes
from fusetune.cluster.engine import Cluster, refuse_address
from fusetune.cluster.nodes import facts_here, refuse_unlike
from fusetune.errors import UserError

HERE = ROOT / "examples" / "cluster"
RUN = ROOT / "tests" / "bundles" / "format_4"


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Answer whatever is asked at an address of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.close()


def test_an_address_where_nothing_answers_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(UserError, match=f"no Ray cluster answers at {address}.*ray start --head"):
        refuse_address(address)


@pytest.mark.parametrize("answer", [b"HTTP/1.0 404 Not Found\r\n\r\n", b"", b"SSH-2.0-OpenSSH"])
def test_an_address_of_something_else_is_refused(answer: bytes) -> None:
    with answering(answer) as address, pytest.raises(UserError, match="is no Ray cluster"):
        refuse_address(address)


def test_an_http2_server_that_is_no_cluster_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a client's port: it speaks the language of Ray, and knows nothing of a cluster."""
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    monkeypatch.setattr(engine, "_SECONDS", 0.5)
    with answering(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])) as address:
        began = time.monotonic()
        with pytest.raises(UserError, match="is no head of a Ray cluster"):
            refuse_address(address)
        assert time.monotonic() - began < 60, "Ray itself waits for two minutes"


@pytest.mark.parametrize("address", ["10.0.0.1", "ray://10.0.0.1:10001", ":6379", "host:port", "host:99999999"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=re.escape(address)):
        refuse_address(address)


def said(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, " ".join(done.output.split())


def test_a_missing_extra_is_said_with_the_line_that_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None if name == "ray" else found(name))
    words = ["predict", str(RUN / "model"), str(RUN / "rows.csv"), "--out", str(tmp_path / "x.csv"), "--engine", "ray"]
    code, text = said(*words)
    assert code == UserError.exit_code
    assert "pip install 'fusetune[cluster]'" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--address", "auto"], "add --engine ray"),
        (["--workers", "2"], "add --engine ray"),
        (["--engine", "ray", "--workers", "0"], "at least 1"),
        (["--engine", "ray", "--drift", "d.json"], "--drift compares the whole table"),
        (["--engine", "spark"], "'ray'"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, words: list[str], text: str) -> None:
    code, told = said("predict", str(RUN / "model"), str(RUN / "rows.csv"), "--out", str(tmp_path / "x.csv"), *words)
    assert code == UserError.exit_code
    assert text in told
    assert not list(tmp_path.iterdir())


def test_nodes_that_differ_are_named_with_what_differs(tmp_path: Path) -> None:
    file = tmp_path / "bundle.json"
    file.write_text("{}")
    here = facts_here([file])
    refuse_unlike(here, {"a": facts_here([file]), "b": facts_here([file])})
    other = {"versions": {**here["versions"], "torch": "1.0"}, "files": {str(file): "another"}}
    with pytest.raises(UserError) as caught:
        refuse_unlike(here, {"a": here, "b": other, "c": {**here, "files": {}}})
    text = str(caught.value)
    assert f"node b has torch 1.0 (here {here['versions']['torch']})" in text
    assert f"node b does not see {file}" in text
    assert f"node c does not see {file}" in text
    assert "node a" not in text


def test_the_versions_are_those_of_what_computes() -> None:
    found = nodes._versions()
    assert {"python", "fusetune", "torch", "ray", "numpy", "onnxruntime"} <= found.keys()
    assert re.fullmatch(r"\S+ \(source [0-9a-f]{8}\)", found["fusetune"])


@pytest.mark.parametrize("how", [{"workers": 0}, {"cores": 0}, {"gpus": -1}])
def test_a_cluster_of_nothing_is_refused(how: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="at least 1"):
        Cluster(**how)


# --- scripts for real clusters ------------------------------------------------------------------------------------


def test_the_script_for_slurm_is_sound_and_names_options_that_there_are() -> None:
    file = HERE / "slurm.sh"
    done = subprocess.run(["bash", "-n", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    text = file.read_text("utf-8").replace("\\\n", " ")
    check_options(re.findall(r"^\s*fusetune .*$", text, re.M) + re.findall(r"ray start .*?(?=&|$)", text, re.M))


def test_the_manifest_for_kubernetes_is_sound() -> None:
    parts = list(yaml.safe_load_all((HERE / "kubernetes.yaml").read_text("utf-8")))
    assert [part["kind"] for part in parts] == ["Service", "Deployment", "Deployment", "Job"]
    service, head, *others = parts
    claims, images = set(), set()
    for part in (head, *others):
        spec = part["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        assert (
            part["spec"].get("selector", {}).get("matchLabels", {}).items()
            <= part["spec"]["template"]["metadata"]["labels"].items()
        )
        assert {mount["name"] for mount in container["volumeMounts"]} == {one["name"] for one in spec["volumes"]}
        claimed = [one["persistentVolumeClaim"] for one in spec["volumes"] if "persistentVolumeClaim" in one]
        claims |= {one["claimName"] for one in claimed}
        images.add(container["image"])
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
        assert {"requests", "limits"} <= container["resources"].keys()
        line = container["command"][-1] if container["command"][0] == "sh" else shlex.join(container["command"])
        check_options(re.split(r"\s*&&\s*", line))
    assert len(claims) == len(images) == 1, "all see one volume and are one image"
    assert service["spec"]["selector"].items() <= head["spec"]["template"]["metadata"]["labels"].items()
    assert service["metadata"]["name"] == "fusetune-head"
    assert service["spec"]["ports"][0]["port"] == 6379


def test_the_page_names_options_and_files_that_there_are() -> None:
    page = (ROOT / "docs" / "how-to" / "cluster.md").read_text("utf-8")
    lines = [line.split("  #")[0].strip() for line in page.splitlines() if line.startswith(("fusetune ", "ray start"))]
    assert len(lines) >= 6
    check_options(lines)
    for name in re.findall(r"examples/cluster/[\w.]+", page):
        assert (ROOT / name).exists(), name


def test_what_the_image_copies_is_there() -> None:
    text = (HERE / "Dockerfile").read_text("utf-8")
    for line in re.findall(r"^COPY (.*)$", text, re.M):
        assert all((ROOT / word).exists() for word in line.split()[:-1])


def check_options(lines: list[str]) -> None:
    """Compare the options of command lines with those of fusetune, and of Ray where it is installed."""
    assert lines
    for line in lines:
        words = shlex.split(line)
        names = {word.partition("=")[0] for word in words if word.startswith("--")}
        if words[0] == "fusetune":
            known = {name for one in _command(typer.main.get_command(app), words[1]).params for name in one.opts}
        elif importlib.util.find_spec("ray") is not None:
            known = _of_ray()
        else:
            continue
        assert names <= known, f"{line}: {names - known}"


def _command(group: Any, name: str) -> Any:
    return group.commands[name]


@cache
def _of_ray() -> set[str]:
    told = subprocess.run(
        [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(re.findall(r"--[a-z][a-z-]+", told.stdout))
