"""The stamps: what becomes of an unpacked tree, and what is said when fetching cannot work.

The programs `apt-get` and `dpkg-deb` are replaced by short scripts; nothing is downloaded.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from fusetune.datasets import debian, fetch_stamps
from fusetune.datasets.stamps import COLUMNS, PACKAGE, group_folder, read_stamps
from fusetune.errors import RunError, UserError

INSIDE = "usr/share/tuxpaint/stamps"


def plant(root: Path, name: str, text: str | None = "A thing.\nde.utf8=Ein Ding.\n", suffix: str = ".png") -> None:
    """Write a stamp's picture (its name as content) and description below `root`."""
    picture = root / f"{name}{suffix}"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(name.encode())
    if text is not None:
        picture.with_suffix(".txt").write_text(text, encoding="utf-8")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A miniature of the unpacked package: two categories of 15 and 16 stamps, one too small, and things to ignore."""
    root = tmp_path / "package" / INSIDE
    for number in range(15):
        plant(root, f"animals/birds/bird{number:02}", f"Bird no. {number}, “shy”.\nfr.utf8=Oiseau.\n")
    for number in range(16):
        plant(root, f"food/fruit/cartoon/fruit{number:02}")
    for number in range(14):
        plant(root, f"sports/ball{number:02}")
    plant(root, "animals/birds/bird00_mirror", text=None)
    plant(root, "animals/birds/drawn", suffix=".svg")
    plant(root, "animals/birds/silent", text="\nde.utf8=Stumm\n")
    plant(root, "stray")
    (root / "animals/birds/bird00_desc.ogg").write_bytes(b"")
    return tmp_path / "package"


@pytest.fixture
def tools(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH whose `dpkg-deb` copies the miniature tree, and nothing else; the folder to put more programs into."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program(
        folder, "dpkg-deb", f'grep -q "!<arch>" "$2" || {{ echo "not a package" >&2; exit 2; }}; cp -r "{tree}" "$3"'
    )
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    file.chmod(0o755)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "stamps.deb"
    path.write_text("!<arch>\n")
    return path


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_only_png_with_sentence_in_large_categories(tree: Path) -> None:
    stamps = read_stamps(tree / INSIDE)
    names = [f"animals/birds/bird{n:02}.png" for n in range(15)]
    names += [f"food/fruit/cartoon/fruit{n:02}.png" for n in range(16)]
    assert [str(stamp.path) for stamp in stamps] == names
    assert stamps[3].text == "Bird no. 3, “shy”."
    assert {stamp.category for stamp in stamps} == {"animals", "food"}


def test_least_is_inclusive(tree: Path) -> None:
    assert {s.category for s in read_stamps(tree / INSIDE, least=14)} == {"animals", "food", "sports"}
    assert {s.category for s in read_stamps(tree / INSIDE, least=16)} == {"food"}
    with pytest.raises(UserError, match="45 stamps and no category with at least 17"):
        read_stamps(tree / INSIDE, least=17)


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("animals/birds/owl.png", "animals/birds"),
        ("animals/birds/cartoon/owl.png", "animals/birds"),
        ("animals/mammals/bears/toys/teddy.png", "animals/mammals/bears"),
        ("symbols/alphabets/english/filled/lowercase/a_filled.png", "symbols/alphabets/english"),
        ("symbols/alphabets/german/outlined/uppercase/A_outline.png", "symbols/alphabets/german"),
        ("town/cartoon/gate.png", "town/cartoon"),
        ("clothes/t_jacket.png", "clothes/t"),
        ("clothes/t_sock.png", "clothes/t"),
        ("clothes/button.png", "clothes/button"),
    ],
)
def test_group_is_the_folder_without_style(path: str, group: str) -> None:
    assert group_folder(PurePosixPath(path)) == group


def test_fetch_from_an_archive(tmp_path: Path, tools: Path, archive: Path) -> None:
    out = tmp_path / "new" / "stamps"
    table = fetch_stamps(out, archive)
    assert table == out / "stamps.csv"
    found = rows(table)
    assert tuple(found[0]) == COLUMNS
    assert len(found) == 31
    assert found[0]["text"] == "Bird no. 0, “shy”."
    for row in found:
        assert (out / row["image"]).read_bytes() == row["image"].removeprefix("images/").removesuffix(".png").encode()
    assert {row["folder"] for row in found} == {"animals/birds", "food/fruit"}
    kept = {path.suffix for path in out.rglob("*") if path.is_file()}
    assert kept == {".png", ".csv", ".txt"}
    assert "GPL-2" in (out / "README.txt").read_text()
    assert [path.name for path in out.parent.iterdir()] == ["stamps"], "nothing is left beside the result"


def test_ids_are_unique_and_tell_nothing(tmp_path: Path, tools: Path, archive: Path) -> None:
    found = rows(fetch_stamps(tmp_path / "stamps", archive))
    assert len({row["id"] for row in found}) == len(found)
    assert not any(word in row["id"] for row in found for word in ("animals", "food", "bird", "fruit"))


def test_an_earlier_result_is_used_again(
    tmp_path: Path, tools: Path, archive: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = fetch_stamps(tmp_path / "stamps", archive)
    before = table.stat().st_mtime_ns
    monkeypatch.setenv("PATH", "")
    capsys.readouterr()
    assert fetch_stamps(tmp_path / "stamps") == table
    assert table.stat().st_mtime_ns == before
    assert "Using the stamps already in" in capsys.readouterr().err


def test_an_empty_folder_is_filled(tmp_path: Path, tools: Path, archive: Path) -> None:
    (tmp_path / "stamps").mkdir()
    assert fetch_stamps(tmp_path / "stamps", archive).is_file()


@pytest.mark.parametrize("name", ["notes.txt", "stamps.csv"])
def test_a_foreign_folder_is_left_alone(tmp_path: Path, tools: Path, archive: Path, name: str) -> None:
    mine = tmp_path / "stamps" / name
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(UserError, match="was not made by this command"):
        fetch_stamps(tmp_path / "stamps", archive)
    assert mine.read_text() == "mine"


def test_a_missing_archive(tmp_path: Path, tools: Path) -> None:
    with pytest.raises(UserError, match=r"archive .*none\.deb does not exist"):
        fetch_stamps(tmp_path / "stamps", tmp_path / "none.deb")


def test_a_damaged_archive_leaves_nothing(tmp_path: Path, tools: Path, archive: Path) -> None:
    archive.write_text("half a file")
    with pytest.raises(UserError, match=r"(?s)cannot be unpacked; download it again\..*not a package"):
        fetch_stamps(tmp_path / "new" / "stamps", archive)
    assert not list((tmp_path / "new").iterdir())


def test_another_package(tmp_path: Path, tools: Path, archive: Path) -> None:
    program(tools, "dpkg-deb", 'mkdir -p "$3/usr/share/doc"')
    with pytest.raises(UserError, match=f"holds no stamps. It must be Debian's package {PACKAGE}"):
        fetch_stamps(tmp_path / "stamps", archive)


def test_systems_without_debians_tools(tmp_path: Path, tools: Path, archive: Path) -> None:
    with pytest.raises(UserError, match=r"no `apt-get` .*use a table of your own"):
        fetch_stamps(tmp_path / "stamps")
    (tools / "dpkg-deb").unlink()
    with pytest.raises(UserError, match=r"no `dpkg-deb` .*use a table of your own"):
        fetch_stamps(tmp_path / "stamps", archive)
    assert not (tmp_path / "stamps").exists()


APT_GET = """
echo "$*" >> "{calls}"
case "$*" in
  *update*) echo fetched > lists ;;
  *) if [ "{lists}" = none ] && [ ! -e lists ]; then echo "E: Unable to locate package" >&2; exit 100; fi ;;
esac
case "$*" in
  *--print-uris*) echo "'http://example.invalid/s.deb' s.deb 8 SHA256:0" ;;
  *download*) echo '!<arch>' > s.deb ;;
esac
"""


@pytest.mark.parametrize("lists", ["current", "none"])
def test_download_with_and_without_package_lists(tmp_path: Path, tools: Path, lists: str) -> None:
    calls = tmp_path / "calls"
    program(tools, "apt-get", APT_GET.format(calls=calls, lists=lists))
    assert len(rows(fetch_stamps(tmp_path / "stamps"))) == 31
    updates = [line for line in calls.read_text().splitlines() if line.endswith("update")]
    assert len(updates) == (1 if lists == "none" else 0)
    assert all("Dir::State=" in line for line in updates), "never into the system's own lists"


def test_download_that_fails_says_how_to_go_on(tmp_path: Path, tools: Path) -> None:
    program(tools, "apt-get", 'echo "E: Temporary failure resolving" >&2; exit 100')
    with pytest.raises(RunError, match=r"(?s)Temporary failure resolving.*packages.debian.org.*--archive"):
        fetch_stamps(tmp_path / "stamps")
    assert not (tmp_path / "stamps").exists()


def test_download_interrupted_after_the_announcement(tmp_path: Path, tools: Path) -> None:
    broken = (
        "case \"$*\" in *--print-uris*) echo \"'http://x/s.deb' s.deb 8 H\";; *) echo 'E: cut off' >&2; exit 1;; esac"
    )
    program(tools, "apt-get", broken)
    with pytest.raises(RunError, match="cut off"):
        debian.download_package(PACKAGE, tmp_path)


def test_a_package_that_apt_does_not_name(tmp_path: Path, tools: Path) -> None:
    program(tools, "apt-get", "true")
    with pytest.raises(RunError, match=f"names no file for the package {PACKAGE}"):
        debian.download_package(PACKAGE, tmp_path)


def test_a_real_package(tmp_path: Path, tree: Path) -> None:
    """Against the real `dpkg-deb`, where there is one."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb on this system")
    control = tree / "DEBIAN" / "control"
    control.parent.mkdir()
    control.write_text("Package: tiny\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: tiny\n")
    package = tmp_path / "tiny.deb"
    subprocess.run(["dpkg-deb", "--build", str(tree), str(package)], check=True, capture_output=True)
    assert len(rows(fetch_stamps(tmp_path / "stamps", package))) == 31
