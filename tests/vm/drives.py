# SPDX-License-Identifier: Apache-2.0
"""Read-only disks a test gives its machine: seeds of every kind, and programs and images for tests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from image import components, declaration
from image.vm import disks, seed
from tests.node import Result

TEST_LABEL = "testdata"
TEST_FOLDER = "/run/testdata"
POD_IMAGE = "basalt.local/testpod:1"


class Drive(Protocol):
    """A disk to be made; equal descriptions make equal disks, which is what saved machines are known by."""

    def make(self, folder: Path, name: str) -> Path:
        """Make the disk in a folder and return its path."""
        ...


@dataclass(frozen=True)
class NoCloud:
    """A NoCloud seed; network: its network-config (version 2); vfat: as a memory stick instead of a CD."""

    text: str
    hostname: str = "node-1"
    network: str | None = None
    vfat: bool = False

    def make(self, folder: Path, name: str) -> Path:
        """Make the seed."""
        instance = seed.Instance.named(self.hostname)
        if self.vfat:
            return seed.nocloud_vfat(folder / name, self.text, instance)
        return seed.nocloud_iso(folder / name, self.text, instance, self.network)


@dataclass(frozen=True)
class ConfigDrive:
    """An OpenStack configuration drive."""

    text: str
    hostname: str = "node-1"

    def make(self, folder: Path, name: str) -> Path:
        """Make the drive."""
        return seed.config_drive(folder / name, self.text, seed.Instance.named(self.hostname))


@dataclass(frozen=True)
class TestData:
    """Files for tests: name on the disk and where it comes from, whose path tells its version."""

    __test__ = False
    files: tuple[tuple[str, Path], ...]

    def make(self, folder: Path, name: str) -> Path:
        """Make a CD of them."""
        return disks.iso(folder / name, TEST_LABEL, dict(self.files))


class Commands(Protocol):
    """The part of a machine that is needed to use a disk."""

    def run(self, command: str, *, timeout: float = ...) -> Result:
        """Run shell text as root."""
        ...


@cache
def test_data() -> TestData:
    """Return the disk with the pod image and the datastore's torture program, built if they are not yet."""
    pod = components.build(declaration.load("testpod")).folder
    torture = components.build(declaration.load("torture")).folder
    return TestData((("testpod.tar", pod / "testpod.tar"), ("etcd-torture", torture / "etcd-torture")))


def mount(machine: Commands) -> None:
    """Mount the test data, once, where TEST_FOLDER says."""
    machine.run(
        f"mountpoint -q {TEST_FOLDER} || {{ mkdir -p {TEST_FOLDER} && "
        f"mount -o ro /dev/disk/by-label/{TEST_LABEL} {TEST_FOLDER}; }}"
    )


def import_pod_image(machine: Commands) -> None:
    """Give the machine's containerd the image that test pods are of."""
    mount(machine)
    machine.run(f"ctr -n k8s.io images import --local {TEST_FOLDER}/testpod.tar", timeout=180)
