# SPDX-License-Identifier: Apache-2.0
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from firstboot import files
from firstboot.failure import BasaltError

ME = (os.getuid(), os.getgid())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("before", "changed"),
    [
        (None, True),
        ((b"new", 0o640), False),
        ((b"old", 0o640), True),
        ((b"new", 0o644), True),
        ((b"", 0o640), True),
    ],
)
def test_write(tmp_path: Path, before: tuple[bytes, int] | None, changed: bool) -> None:
    path = tmp_path / "file"
    if before:
        path.write_bytes(before[0])
        path.chmod(before[1])
    inode = path.stat().st_ino if before else None
    assert files.write(path, "new", 0o640, ME) is changed
    assert (path.read_bytes(), mode(path)) == (b"new", 0o640)
    assert (path.stat().st_ino != inode) is changed
    assert files.write(path, b"new", 0o640, None) is False
    assert os.listdir(tmp_path) == ["file"]


def test_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.write(tmp_path / "file", "x", 0o664)
        files.directory(tmp_path / "folder", 0o775)
    finally:
        os.umask(before)
    assert (mode(tmp_path / "file"), mode(tmp_path / "folder")) == (0o664, 0o775)


def test_link_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("same")
    (tmp_path / "link").symlink_to("target")
    assert files.write(tmp_path / "link", "same")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "same"


def test_rest_of_a_power_cut_is_used_up(tmp_path: Path) -> None:
    rest = tmp_path / ".file.new"
    rest.write_text("half")
    rest.chmod(0o666)
    files.write(tmp_path / "file", "whole", 0o600)
    assert os.listdir(tmp_path) == ["file"]
    assert mode(tmp_path / "file") == 0o600


def test_write_all_replaces_nothing_when_one_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    wanted = [files.File(tmp_path / "a", b"new"), files.File(tmp_path / "absent" / "b", b"new")]
    with pytest.raises(BasaltError, match="absent/b cannot be written: No such file or directory"):
        files.write_all(wanted)
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_write_all_touches_only_what_differs(tmp_path: Path) -> None:
    wanted = [files.File(tmp_path / str(number), bytes([number]) * 100) for number in range(20)]
    assert files.write_all(wanted) == tuple(file.path for file in wanted)
    assert files.write_all(wanted) == ()
    (tmp_path / "7").write_bytes(b"damage")
    assert files.write_all(wanted) == (tmp_path / "7",)


def test_content_is_on_disk_before_its_name(tmp_path: Path) -> None:
    """The order of system calls is what makes a power cut harmless, so the kernel is asked for it."""
    script = (
        "import sys\n"
        "order = []\n"
        "sys.addaudithook(lambda event, args: order.append('rename') if event == 'os.rename' else None)\n"
        "import os\n"
        "from pathlib import Path\n"
        "from firstboot import files\n"
        "fsync = os.fsync\n"
        "def watched(fd):\n"
        "    order.append('folder' if os.path.isdir(f'/proc/self/fd/{fd}') else 'file')\n"
        "    fsync(fd)\n"
        "os.fsync = watched\n"
        f"files.write(Path({str(tmp_path)!r}) / 'file', 'x')\n"
        "print(*order)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.split() == ["file", "rename", "folder"]


def test_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    sizes = {b"a" * 300_000, b"b" * 10}
    files.write(path, b"b" * 10)
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from firstboot import files; from pathlib import Path\n"
            f"for n in range(40): files.write(Path({str(path)!r}), b'a' * 300000 if n % 2 else b'b' * 10)",
        ]
    )
    seen = set()
    while writer.poll() is None:
        seen.add(path.read_bytes())
    assert writer.returncode == 0
    assert seen <= sizes


@pytest.mark.parametrize("path", ["absent", "file/below"])
def test_read_or_none(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert files.read_or_none(tmp_path / path) is None
    assert files.read_or_none(tmp_path / "file") == b"content"


def test_read_of_a_folder_says_why(tmp_path: Path) -> None:
    with pytest.raises(BasaltError, match="cannot be read: Is a directory"):
        files.read_or_none(tmp_path)


def test_directory(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    assert files.directory(path, 0o750, ME) is True
    assert files.directory(path, 0o750, ME) is False
    assert files.directory(path, 0o755) is True
    assert mode(path) == 0o755
    files.write(tmp_path / "file", "x")
    with pytest.raises(BasaltError, match="file cannot be written: Not a directory"):
        files.directory(tmp_path / "file")


def test_remove(tmp_path: Path) -> None:
    files.write(tmp_path / "file", "x")
    assert files.remove(tmp_path / "file") is True
    assert files.remove(tmp_path / "file") is False


def test_unknown_owner_is_named_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(BasaltError, match="no-such-user:root"):
        files.write(tmp_path / "file", "x", 0o600, ("no-such-user", "root"))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_owner_is_part_of_the_state(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert files.write(path, "x", 0o600, ("nobody", 0)) is True
    assert files.write(path, "x", 0o600, ("nobody", 0)) is False
    os.chown(path, 0, 0)
    assert files.write(path, "x", 0o600, ("nobody", 0)) is True
    assert path.stat().st_uid == files.numbers(("nobody", 0))[0]
