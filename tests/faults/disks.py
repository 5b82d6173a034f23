"""A real small disk, which fills and can be made read-only."""

import shutil
import subprocess
from pathlib import Path

import pytest

SIZE = 16 << 20  # bytes


class Disk:
    """A small file system of its own, and a file that takes what room it should not have."""

    def __init__(self, folder: Path):
        self.folder, self._ballast = folder, folder / "ballast"

    def leave(self, room: int) -> None:
        """Takes all but about `room` bytes, to a page."""
        with self._ballast.open("ab") as file:
            file.write(bytes(max(0, shutil.disk_usage(self.folder).free - room)))

    def free(self) -> None:
        """Gives back what was taken."""
        self._ballast.unlink(missing_ok=True)

    def make(self, mode: str) -> None:
        """Makes it `ro`, read-only, or `rw`."""
        subprocess.run(["mount", "-o", f"remount,{mode}", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    """Needs the right to mount; the test is skipped without it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
