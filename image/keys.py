# SPDX-License-Identifier: Apache-2.0
"""The keys an image is signed with: made on the first build, kept beside the user's data and never in the checkout.

secure-boot.key, secure-boot.crt   sign systemd-boot, the UKI and the root hash of /usr; enrolled as PK, KEK and db
update.key, update.pub             OpenPGP; signs SHA256SUMS, which systemd-sysupdate checks before it takes an update

Whoever has the private halves can make images that running nodes accept: keep a copy, and keep it safe.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import host, trees

_SUBJECT = "/CN=Basalt image signing/"
# Firmware ignores the dates of a certificate, but tools that show it do not: no image outlives this.
_DAYS = 36500
_UPDATE_NAME = "Basalt image updates"


@dataclass(frozen=True)
class Keys:
    """Where the keys are."""

    folder: Path

    @property
    def key(self) -> Path:
        """Private key of Secure Boot and verity, PEM."""
        return self.folder / "secure-boot.key"

    @property
    def certificate(self) -> Path:
        """Its self-signed certificate, PEM."""
        return self.folder / "secure-boot.crt"

    @property
    def update_key(self) -> Path:
        """Private OpenPGP key of updates, armored."""
        return self.folder / "update.key"

    @property
    def update_keyring(self) -> Path:
        """Public half, binary: the keyring that goes into the image."""
        return self.folder / "update.pub"

    def complete(self) -> bool:
        """Tell whether every key is there."""
        return all(
            path.is_file() for path in (self.key, self.certificate, self.update_key, self.update_keyring)
        )


def folder() -> Path:
    """Return the folder of the keys: $BASALT_KEYS, or the user's data folder."""
    if given := os.environ.get("BASALT_KEYS"):
        return Path(given).absolute()
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(base) / "basalt/keys"


def ensure() -> Keys:
    """Return the keys; make those that are missing. A key that exists is never replaced."""
    keys = Keys(folder())
    if keys.complete():
        return keys
    keys.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with host.locked("keys"):
        if not (keys.key.is_file() and keys.certificate.is_file()):
            _make_secure_boot(keys)
        if not (keys.update_key.is_file() and keys.update_keyring.is_file()):
            _make_update(keys)
    print(f"keys: made in {keys.folder}; without them no image can follow the ones that run", flush=True)
    return keys


def _make_secure_boot(keys: Keys) -> None:
    with tempfile.TemporaryDirectory(dir=keys.folder) as folder:
        key, certificate = Path(folder, "key"), Path(folder, "crt")
        # RSA 2048 is what every firmware can check.
        host.run(
            trees.with_tools(
                [
                    *("openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-noenc", "-sha256"),
                    *("-days", str(_DAYS), "-subj", _SUBJECT, "-keyout", key, "-out", certificate),
                ]
            ),
            timeout=60,
        )
        _keep(key, keys.key, 0o600)
        _keep(certificate, keys.certificate, 0o644)


def _make_update(keys: Keys) -> None:
    with gpg_home() as home:
        gpg(home, ["--passphrase", "", "--quick-generate-key", _UPDATE_NAME, "ed25519", "sign", "never"])
        secret, public = Path(home, "secret.asc"), Path(home, "public.pgp")
        gpg(home, ["--output", str(secret), "--armor", "--export-secret-keys"])
        gpg(home, ["--output", str(public), "--export"])
        _keep(secret, keys.update_key, 0o600)
        _keep(public, keys.update_keyring, 0o644)


def sign_detached(keys: Keys, path: Path, signature: Path) -> None:
    """Write a file's detached OpenPGP signature, made with the key of updates."""
    with gpg_home() as home:
        gpg(home, ["--import", str(keys.update_key)])
        gpg(home, ["--output", str(signature), "--detach-sign", str(path)])


def gpg_home() -> tempfile.TemporaryDirectory[str]:
    """Return a throw-away folder for gpg, with a path short enough for its agent's socket."""
    return tempfile.TemporaryDirectory(prefix="basalt-gpg-", dir="/tmp")


def gpg(home: str, args: Sequence[str]) -> None:
    """Run gpg of the tools tree; its agent ends with it, because it sees the folder vanish."""
    words = ["gpg", "--homedir", home, "--batch", "--yes", "--no-tty", "--pinentry-mode", "loopback"]
    host.run(trees.with_tools([*words, *args]), timeout=60)


def _keep(source: Path, target: Path, mode: int) -> None:
    target.unlink(missing_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as file:
        file.write(source.read_bytes())
