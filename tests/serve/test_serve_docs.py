"""The page on serving: its commands are run against a server of its own; and the Dockerfile, without Docker."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from documents import ROOT, SHORT, blocks, run_python_here, scans
from serving import Made, running
from tiny import few_trees

from fusetune.cli import app, main
from fusetune.serve.app import create
from fusetune.serve.options import Options

__all__ = ["scans"]
PAGE = ROOT / "docs" / "how-to" / "serve.md"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def lines(beginning: str) -> list[str]:
    return [line for block in blocks(PAGE, "sh") for line in block.splitlines() if line.startswith(beginning)]


def test_what_the_page_shows_works(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scans)
    for name, value in {**SHORT, "FUSETUNE_CACHE": str(scans / "cache")}.items():
        monkeypatch.setenv(name, value)
    fit, serve = lines("fusetune ")
    monkeypatch.setattr(sys, "argv", shlex.split(fit))
    with few_trees(), pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert shlex.split(serve) == ["fusetune", "serve", "runs/scans", "--port", "8000"]
    with running(create(Options(folder="runs/scans"))) as address:
        shown = lines("curl ")
        assert len(shown) == 7
        for line in shown:
            done = subprocess.run(
                ["bash", "-c", line.replace("127.0.0.1:8000", address)], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            assert "-o " in line or "error" not in json.loads(done.stdout)
        assert "<html" in (scans / "why.html").read_text(encoding="utf-8")
        (code,) = blocks(PAGE, "python")
        assert "'prediction'" in run_python_here(code.replace("127.0.0.1:8000", address), scans)


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile in their order."""
    kept = [line for line in DOCKERFILE.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in kept]


def of(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def test_what_the_image_copies_is_there_and_not_kept_out() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [word for rest in of("COPY") for word in rest.split()[:-1]]
    assert {"pyproject.toml", "constraints.txt", "src"} <= set(copied)
    for word in copied:
        assert (ROOT / word).exists()
        assert f"!{word}" in ignored
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {project["readme"], *project["license-files"]} <= set(copied)


def test_what_the_image_installs_is_what_is_tested() -> None:
    (install,) = [rest for rest in of("RUN") if rest.startswith("pip install")]
    words = shlex.split(install)
    assert words[words.index("-c") + 1] == "constraints.txt"
    extras = words[-1].removeprefix(".[").removesuffix("]").split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in pins}
    needed = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    for one in needed:
        assert re.split(r"[\[><=~ ]", one)[0].lower().replace("_", "-") in pinned, one
    # The page's own line is the same but for what a machine that has more to do leaves out.
    assert 'pip install -c constraints.txt ".[serve]"' in blocks(PAGE, "sh")[0]
    assert "serve" in extras
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"-c constraints\.txt -e \"\.\[[a-z,]*serve[a-z,]*\]\"", makefile)


def test_what_the_image_starts_is_a_command_with_known_options(made: Made) -> None:
    (entry,), (command,) = of("ENTRYPOINT"), of("CMD")
    words = [*json.loads(entry), *json.loads(command)]
    assert words[:2] == ["fusetune", "serve"]
    group: Any = typer.main.get_command(app)
    parameters = group.commands["serve"].make_context("serve", words[2:]).params
    assert (str(parameters["folder"]), parameters["host"]) == ("/model", "0.0.0.0")
    assert str(parameters["port"]) in of("EXPOSE")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "fusetune" in project["scripts"]


def test_the_health_of_the_image_is_asked_of_the_server(made: Made) -> None:
    (check,) = of("HEALTHCHECK")
    program, *rest = json.loads(check[check.index("[") :])
    assert program == "python"
    with running(create(Options(folder=str(made.folder)))) as address:
        words = [word.replace("127.0.0.1:8000", address) for word in rest]
        assert words != rest
        assert (
            subprocess.run([sys.executable, *words], env={**os.environ, "http_proxy": ""}, check=False).returncode == 0
        )
    gone = subprocess.run([sys.executable, *words], capture_output=True, check=False)
    assert gone.returncode != 0


def test_the_user_of_the_image_is_made_before_it_is_used() -> None:
    order = [name for name, _ in instructions()]
    (user,) = of("USER")
    assert any(rest.startswith("useradd") and rest.endswith(f" {user}") for rest in of("RUN"))
    assert order.index("USER") > max(place for place, name in enumerate(order) if name in ("COPY", "RUN"))


def test_the_page_files_are_in_the_package() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    package = ROOT / "src" / "fusetune"
    packed = {path for pattern in data["fusetune"] for path in package.glob(pattern)}
    assert {path for path in (package / "serve").iterdir() if path.suffix in (".html", ".css", ".js")} <= packed


def test_the_manifest_and_the_proxy_of_the_page_fit_the_server(made: Made) -> None:
    page = ROOT / "docs" / "how-to" / "deploy.md"
    (manifest,) = blocks(page, "yaml")
    deployment, service = yaml.safe_load_all(manifest)
    assert (deployment["apiVersion"], deployment["kind"]) == ("apps/v1", "Deployment")
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    pod = template["spec"]
    (container,) = pod["containers"]
    group: Any = typer.main.get_command(app)
    options = group.commands["serve"].make_context("serve", list(container["args"])).params
    (port,) = container["ports"]
    assert (options["host"], options["port"]) == ("0.0.0.0", port["containerPort"])
    assert pod["terminationGracePeriodSeconds"] > options["timeout"] + options["drain"]
    assert f" {pod['securityContext']['runAsUser']} " in next(rest for rest in of("RUN") if rest.startswith("useradd"))
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"]
    assert mount["mountPath"] == str(options["folder"])
    assert [one["name"] for one in container["env"]] == ["FUSETUNE_API_KEY"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    served: Any = create(Options(folder=str(made.folder)))
    paths = set(served.app.openapi()["paths"])
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    named = set(re.findall(r"`(?:POST )?(/[\w/]+)`", page.read_text(encoding="utf-8")))
    assert {probe["path"] for probe in probes.values()} | named <= paths
    assert probes["readinessProbe"]["path"] == "/ready"
    (proxy,) = blocks(page, "nginx")
    assert proxy.count("{") == proxy.count("}")
    assert all(line.strip().endswith(("{", "}", ";")) for line in proxy.splitlines())
    default = group.commands["serve"].make_context("serve", ["model"]).params
    assert re.search(r"client_max_body_size (\d+)m;", proxy)[1] == str(default["max_body"])  # type: ignore[index]
    assert int(re.search(r"proxy_read_timeout (\d+)s;", proxy)[1]) > default["timeout"]  # type: ignore[index]
