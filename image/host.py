# SPDX-License-Identifier: Apache-2.0
"""Facts of the machine that builds: caches, mirror, certificates, proxies; and the only door to processes.

Nothing found here is ever written into a file under version control.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from firstboot.failure import BasaltError

SUITE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# What a fresh Debian or Ubuntu may lack: file that must exist -> package that brings it.
REQUIREMENTS = {
    "/usr/bin/apt-get": "apt",
    "/usr/bin/dpkg-deb": "dpkg",
    "/usr/bin/unshare": "util-linux",
    "/usr/bin/mount": "mount",
    "/usr/sbin/chroot": "coreutils",
    "/etc/ssl/certs/ca-certificates.crt": "ca-certificates",
    str(KEYRING): "debian-archive-keyring",
}
# How a host of another distribution knows where Debian is: Ubuntu has this file from the beginning.
TEMPLATES = Path("/usr/share/python-apt/templates/Debian.info")
PROXY_NAMES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
LOG_LINES = 30


class CommandError(BasaltError):
    """A program failed: the message has its command line, exit code and last lines."""


@dataclass(frozen=True)
class Mirror:
    """Where Debian packages come from: URI of the archive and of its security updates."""

    archive: str
    security: str

    def sources(self) -> str:
        """Return the apt sources (deb822) of the release the image is made of."""
        return "\n".join(
            f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {KEYRING}\n"
            for uri, suites in (
                (self.archive, f"{SUITE} {SUITE}-updates {SUITE}-backports"),
                (self.security, f"{SUITE}-security"),
            )
        )


def cache() -> Path:
    """Return the folder of everything that outlives a checkout."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "basalt"


def run(
    argv: Sequence[str | Path],
    *,
    log: Path | None = None,
    timeout: float = 3600,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    title: str = "",
) -> str:
    """Run a program to its end and return what it wrote to standard output.

    log: file that gets the command and all its output instead (the answer is then empty)
    timeout: seconds
    title: what to call the program in errors, where its argument list is long
    Raises CommandError with the last lines of output.
    """
    command = [str(word) for word in argv]
    title = title or shlex.join(command)
    with ExitStack() as stack:
        if log is None:
            output: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
            errors: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
        else:
            log.parent.mkdir(parents=True, exist_ok=True)
            output = errors = stack.enter_context(log.open("a+b"))
            output.write(f"+ {shlex.join(command)}\n".encode())
            output.flush()
        begin = output.tell()
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                timeout=timeout,
                env=env,
                cwd=cwd,
            )
        except FileNotFoundError as error:
            raise CommandError(
                f"{error.filename}: no such program or folder", f"Needed for: {command}"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise _failed(title, f"not finished after {timeout:.0f} s", _read(errors, begin), log) from error
        if done.returncode:
            said = _read(errors, begin) or _read(output, begin)
            raise _failed(title, f"exit code {done.returncode}", said, log)
        return "" if log else _read(output, begin)


def _read(file: IO[bytes], begin: int) -> str:
    file.seek(begin)
    return file.read().decode(errors="replace")


def _failed(title: str, how: str, output: str, log: Path | None) -> CommandError:
    tail = "\n".join(output.splitlines()[-LOG_LINES:])
    hint = f"The whole log: {log}" if log else ""
    return CommandError(f"{title}: {how}\n{tail}".rstrip(), hint)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the cache's lock of this name; wait while another process has it."""
    path = cache() / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name}: another build is at work, waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def require_root() -> None:
    """Raise BasaltError unless this process is root."""
    if os.geteuid():
        raise BasaltError(
            "building needs root: it unpacks Debian packages and mounts folders in a private mount namespace",
            "Run the same command with sudo, e.g. `sudo make run`.",
        )


def require_packages(requirements: Mapping[str, str] = REQUIREMENTS) -> None:
    """Install what the host lacks with its own package manager, naming every package first.

    Raises BasaltError where the host is no Debian or Ubuntu, or where root is needed for it.
    """
    wanted = dict(requirements)
    if not _known_mirror():
        wanted[str(TEMPLATES)] = "python-apt-common"
    missing = sorted({package for path, package in wanted.items() if not Path(path).exists()})
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise BasaltError(
            f"missing on this host: {', '.join(missing)}", "Build on Debian 12 or later, or Ubuntu."
        )
    require_root()
    print(f"host: installing {' '.join(missing)} with apt-get", flush=True)
    log = cache() / "logs" / "host.log"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # A source of somebody else that fails is no reason to stop: what is needed may be known all the same.
    with suppress(CommandError):
        run(["apt-get", "-q", "update"], log=log, timeout=600, env=environment)
    run(
        ["apt-get", "-qy", "--no-install-recommends", "install", *missing],
        log=log,
        timeout=900,
        env=environment,
    )


def mirror() -> Mirror:
    """Return the Debian mirror of this host: by environment, by its apt sources, or Debian's own default.

    Raises BasaltError when none is known.
    """
    found = _known_mirror() or _default_mirror()
    if not found:
        raise BasaltError(
            "no Debian mirror is known: neither the apt sources of this host nor python-apt name one",
            "Set BASALT_DEBIAN_MIRROR to the URI of a Debian mirror (the one that ends in /debian).",
        )
    return found


def _known_mirror() -> Mirror | None:
    if archive := os.environ.get("BASALT_DEBIAN_MIRROR", "").rstrip("/"):
        return Mirror(archive, os.environ.get("BASALT_DEBIAN_SECURITY_MIRROR") or f"{archive}-security")
    folder = Path("/etc/apt")
    files = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    return find_mirror(
        file.read_text() for file in files if file.suffix in (".list", ".sources") and file.is_file()
    )


def _default_mirror() -> Mirror | None:
    return find_default(TEMPLATES.read_text()) if TEMPLATES.is_file() else None


def find_default(text: str) -> Mirror | None:
    """Find the archive that python-apt's description of Debian names; None where it names none."""
    uris = re.findall(r"^BaseURI:\s*(https?://\S+?)/*\s*$", text, re.MULTILINE)
    archive = next((uri for uri in uris if uri.endswith("/debian")), None)
    security = next((uri for uri in uris if uri.endswith("/debian-security")), f"{archive}-security")
    return Mirror(archive, security) if archive else None


def find_mirror(texts: Iterable[str]) -> Mirror | None:
    """Find Debian's archive in texts of apt sources, one-line or deb822; None when they are another's."""
    entries = [entry for text in texts for entry in _entries(text)]
    archives = [uri for uri, suites in entries if uri.endswith("/debian") and _is_debian(suites)]
    if not archives:
        return None
    security = [uri for uri, suites in entries if "-security" in str(suites) and "debian" in uri]
    return Mirror(archives[0], next(iter(security), f"{archives[0]}-security"))


def _is_debian(suites: Sequence[str]) -> bool:
    """Tell Debian's archive from others whose address ends in /debian too: they name suites otherwise."""
    return any(
        suite.split("-")[0] in ("bookworm", "trixie", "forky", "stable", "testing", "sid") for suite in suites
    )


def _entries(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield (URI, suites) of each enabled binary source with component main."""
    text = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)
    for line in re.findall(r"^deb\s+(?:\[[^]]*]\s+)?(\S+\s+\S+\s+.*)$", text, re.MULTILINE):
        uri, suite, *components = line.split()
        if "main" in components:
            yield _resolve(uri), (suite,)
    for stanza in re.split(r"\n\s*\n", text):
        fields = {
            key.lower(): value.split()
            for key, value in re.findall(r"^(\S+?):(.*(?:\n[ \t].*)*)", stanza, re.M)
        }
        if "deb" in fields.get("types", []) and "main" in fields.get("components", []):
            if fields.get("enabled") != ["no"]:
                yield from (
                    (_resolve(uri), tuple(fields.get("suites", []))) for uri in fields.get("uris", [])
                )


def _resolve(uri: str) -> str:
    """Return the first mirror of a list (cloud images name a file of mirrors), any other URI as it is."""
    uri = uri.rstrip("/")
    if not uri.startswith("mirror+file:"):
        return uri
    path = Path("/" + uri.removeprefix("mirror+file:").lstrip("/"))
    lines = path.read_text().split("\n") if path.is_file() else []
    return next((line.split()[0].rstrip("/") for line in lines if line.strip() and line[0] != "#"), uri)


def write_sandbox(directory: Path) -> Path:
    """Write ``mkosi.sandbox`` with this host's mirror into a folder, unless it is there, and return it.

    mkosi's own default sources ask for an archive of debug packages that mirrors need not have.
    """
    sandbox = directory / "mkosi.sandbox"
    target = sandbox / "etc/apt/sources.list.d/mkosi.sources"
    text = mirror().sources()
    if not target.is_file() or target.read_text() != text:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return sandbox


def ca_bundle() -> Path:
    """Return the certificates this host trusts, as one file: an inspecting proxy's is often only there."""
    return Path(os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt").resolve()


def network_environment() -> dict[str, str]:
    """Return the variables by which Go reaches modules from this host: proxies and module proxy."""
    found = {name: os.environ[name] for name in PROXY_NAMES if os.environ.get(name)}
    for name in ("GOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE"):
        if value := os.environ.get(name) or _go_setting(name):
            found[name] = value
    return found


def _go_setting(name: str) -> str:
    """Ask the host's own Go, where there is one: its settings may be in a file."""
    return run(["go", "env", name], timeout=30).strip() if shutil.which("go") else ""


def command_line(main: Callable[[Sequence[str]], int]) -> int:
    """Run a command line: an expected failure is shown as what it says and a hint, without a traceback."""
    try:
        return main(sys.argv[1:])
    except BasaltError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
