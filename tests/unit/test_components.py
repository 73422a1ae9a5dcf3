# SPDX-License-Identifier: Apache-2.0
"""Components: what a folder declares, when it is built again, what is refused; and the building host."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from firstboot.failure import BasaltError
from image import components, declaration, host, oci, trees, versions
from image.components import Module
from image.declaration import Binary, DeclarationError

PROGRAM = """
version = "1.5.2"
license = "Apache-2.0"
summary = "Starts containers"
module = "example.org/runc"

[[binaries]]
package = "example.org/runc"
path = "/usr/bin/runc"
variables = { "main.version" = "v{version}" }
links = ["/usr/sbin/runc"]
"""
GO_MOD = "module basalt.local/runc\n\nrequire example.org/runc v1.5.2\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of components with one in it."""
    (tmp_path / "runc").mkdir()
    (tmp_path / "runc/component.toml").write_text(PROGRAM)
    (tmp_path / "runc/go.mod").write_text(GO_MOD)
    return tmp_path


def test_a_declaration_is_read(folder: Path) -> None:
    (component,) = declaration.components(folder)
    assert (component.name, component.version, component.module) == ("runc", "1.5.2", "example.org/runc")
    assert component.in_image
    assert component.binaries == (
        Binary(
            package="example.org/runc",
            path="/usr/bin/runc",
            variables=(("main.version", "v1.5.2"),),
            links=("/usr/sbin/runc",),
        ),
    )


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("component.toml", "license", "licence", "unknown key licence"),
        ("component.toml", 'summary = "Starts containers"', "", "key summary is missing"),
        ("component.toml", 'path = "/usr/bin/runc"', "", "key path is missing"),
        ("component.toml", '"1.5.2"', "1.5.2.3", "component.toml: "),
        ("component.toml", '"1.5.2"', '"1.5.3"', "says 1.5.3, go.mod requires example.org/runc v1.5.2"),
        ("go.mod", "require example.org/runc v1.5.2", "", "requires example.org/runc not at all"),
    ],
)
def test_a_wrong_declaration_is_refused(folder: Path, file: str, old: str, new: str, message: str) -> None:
    path = folder / "runc" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DeclarationError, match=message):
        declaration.load("runc", folder)


def test_an_edit_of_another_version_is_refused(folder: Path) -> None:
    with (folder / "runc/component.toml").open("a") as file:
        file.write(
            '[[edits]]\nmodule = "example.org/runc"\nversion = "v1.5.1"\nsum = "h1:x"\ndirectory = "runc"\n'
        )
    with pytest.raises(
        DeclarationError, match=r"edit is of example.org/runc v1\.5\.1, go.mod requires v1\.5\.2"
    ):
        declaration.load("runc", folder)


def test_an_edited_copy_that_would_not_be_built_is_refused(folder: Path) -> None:
    with (folder / "runc/component.toml").open("a") as file:
        file.write(
            '[[edits]]\nmodule = "example.org/runc"\nversion = "v1.5.2"\nsum = "h1:x"\ndirectory = "runc"\n'
        )
    with pytest.raises(DeclarationError, match=r"copy of example.org/runc is not what is built"):
        declaration.load("runc", folder)
    with (folder / "runc/go.mod").open("a") as file:
        file.write("\nreplace example.org/runc => ./edited/runc\n")
    assert declaration.load("runc", folder).edits[0].directory == "runc"


def test_an_unknown_component_is_refused_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(DeclarationError, match="rucn: no such component") as error:
        declaration.load("rucn", folder)
    assert "runc" in error.value.hint


def test_the_key_is_of_content_not_of_place_or_time(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    clone = tmp_path_factory.mktemp("clone")
    shutil.copytree(folder / "runc", clone / "runc", copy_function=shutil.copyfile)
    (clone / "runc/__pycache__").mkdir()
    (clone / "runc/__pycache__/edit.pyc").write_bytes(b"x")
    assert declaration.load("runc", clone).key() == declaration.load("runc", folder).key()


@pytest.mark.parametrize("name", ["go.mod", "component.toml", "edit.py", "sub/main.go"])
def test_the_key_changes_with_every_file(folder: Path, name: str) -> None:
    before = declaration.load("runc", folder).key()
    path = folder / "runc" / name
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write("\n# changed\n")
    assert declaration.load("runc", folder).key() != before


def test_moving_text_between_files_changes_the_key(folder: Path) -> None:
    (folder / "runc/a").write_text("xb 1")
    (folder / "runc/b").write_text("y")
    before = declaration.load("runc", folder).key()
    (folder / "runc/a").write_text("x")
    (folder / "runc/b").write_text("b 1y")
    assert declaration.load("runc", folder).key() != before


def test_the_components_of_this_repository_are_sound() -> None:
    known = {component.name: component for component in declaration.components()}
    assert {
        "kubernetes",
        "containerd",
        "runc",
        "cni",
        "etcd",
        "coredns",
        "flannel",
        "pause",
        "testpod",
    } <= known.keys()
    assert "testpod" not in {component.name for component in components.image_components()}
    installed = [
        path
        for component in known.values()
        for path in (
            *(path for binary in component.binaries for path in (binary.path, *binary.links)),
            *(image.path for image in component.images),
        )
        if path.startswith("/")
    ]
    assert len(installed) == len(set(installed)), "two components install the same file"
    assert all(path.startswith("/usr/") for path in installed), "only /usr is part of the image"
    for component in known.values():
        declared = {binary.path for binary in component.binaries}
        assert {path for image in component.images for _, path in image.files} <= declared


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("github.com/opencontainers/runc", "runc"),
        ("github.com/containernetworking/plugins/plugins/main/bridge", "bridge"),
        ("go.etcd.io/etcd/etcdctl/v3", "etcdctl"),
        ("pause.c", "pause.c"),
    ],
)
def test_go_names_programs_after_their_package(package: str, name: str) -> None:
    assert Binary(package, "/usr/bin/x").built_name() == name


def test_programs_of_the_same_flags_are_built_by_one_command() -> None:
    a, b = Binary("example.org/a", "/usr/bin/a"), Binary("example.org/b", "/usr/bin/b")
    tagged = Binary("example.org/c", "/usr/bin/c", tags=("x", "y"), variables=(("main.v", "1"),))
    grouped = {tuple(binary.package for binary in group) for group in components.groups((a, tagged, b))}
    assert grouped == {("example.org/a", "example.org/b"), ("example.org/c",)}
    assert components.compile_command((tagged,)) == [
        "go", "build", "-ldflags=-s -w -X main.v=1", "-tags=x,y", "-o", "/basalt/output/", "example.org/c",
    ]  # fmt: skip


def test_c_programs_are_built_one_by_one() -> None:
    one, two = Binary("a.c", "a"), Binary("b.c", "b")
    assert len(list(components.groups((one, two)))) == 2
    assert components.compile_command((one,))[0] == "gcc"


def test_modules_of_programs_are_each_named_once() -> None:
    text = (
        "/basalt/output/x: go1.26.0\n\tpath\texample.org/x\n\tmod\tbasalt.local/x\t(devel)\t\n"
        "\tdep\tk8s.io/api\tv0.0.0\n\t=>\tk8s.io/api\tv0.37.2\th1:api\n"
        "\tdep\texample.org/a\tv1.0.0\th1:a\n\tbuild\t-trimpath=true\n"
        "/basalt/output/y: go1.26.0\n\tpath\texample.org/flannel\n"
        "\tmod\texample.org/flannel\tv1.0.0\n\t=>\t./edited/flannel\t(devel)\t\n\tdep\texample.org/a\tv1.0.0\th1:a\n"
    )
    assert components.parse_modules(text) == [
        Module("example.org/a", "v1.0.0", "h1:a"),
        Module("example.org/flannel", "v1.0.0", "", "./edited/flannel (devel)"),
        Module("k8s.io/api", "v0.0.0", "h1:api", "k8s.io/api v0.37.2"),
    ]


def test_progress_tells_cached_components_without_building(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    component = declaration.load("runc", folder)
    assert components.cached(component) is None
    result = components.folder_of(component)
    assert result.parent == tmp_path / "cache/basalt/components"
    (result / "tree").mkdir(parents=True)
    (result / "component.json").write_text(
        json.dumps({"binaries": [{"path": "/usr/bin/runc", "size": 8_400_000}]})
    )
    (found,) = components.build_all((component,))
    assert found.tree == result / "tree"
    assert capsys.readouterr().out == "component 1 of 1: runc 1.5.2 … cached\n"
    assert versions.row(component) == ("runc", "1.5.2", "Apache-2.0", "8.4 MB", "Starts containers")


def test_an_image_archive_is_whole_and_the_same_every_time(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"\x7fELF")
    for name in ("one.tar", "two.tar"):
        oci.write_archive(
            tmp_path / name,
            "basalt.local/pause:1",
            {"/bin/pause": program},
            ["/bin/pause"],
            "65534:65534",
            version="1",
        )
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as archive:

        def blob(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file
            return file.read()

        def follow(descriptor: dict[str, str]) -> bytes:
            return blob(f"blobs/{descriptor['digest'].replace(':', '/')}")

        (entry,) = json.loads(blob("index.json"))["manifests"]
        assert entry["annotations"]["io.containerd.image.name"] == "basalt.local/pause:1"
        manifest = json.loads(follow(entry))
        assert json.loads(follow(manifest["config"]))["config"]["Entrypoint"] == ["/bin/pause"]
        with tarfile.open(fileobj=io.BytesIO(follow(manifest["layers"][0]))) as layer:
            assert [(member.name, member.mode) for member in layer] == [("bin", 0o755), ("bin/pause", 0o755)]


DEB822 = """Types: deb
# a comment, as images have them
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""
DOCKER = "deb [arch=amd64] https://download.example/linux/debian bookworm stable\n"
VENDOR = "Types: deb\nURIs: https://deb.vendor.example/debian\nSuites: vendor-20\nComponents: main\n"
UBUNTU = "Types: deb\nURIs: http://archive.example/ubuntu\nSuites: noble\nComponents: main universe\n"


@pytest.mark.parametrize(
    ("texts", "archive", "security"),
    [
        ((DEB822,), "http://mirror.example/debian", "http://mirror.example/debian-security"),
        (
            ("deb http://m.example/debian trixie main\n",),
            "http://m.example/debian",
            "http://m.example/debian-security",
        ),
        ((DOCKER, VENDOR, DEB822), "http://mirror.example/debian", "http://mirror.example/debian-security"),
        ((UBUNTU,), None, None),
        ((DOCKER, VENDOR), None, None),
        (("# deb http://m.example/debian trixie main\n",), None, None),
        (("Enabled: no\n" + DEB822.partition("\n\n")[0],), None, None),
    ],
)
def test_the_mirror_is_debians_and_no_others(
    texts: tuple[str, ...], archive: str | None, security: str | None
) -> None:
    found = host.find_mirror(texts)
    assert (found and found.archive, found and found.security) == (archive, security)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Suite: x\nBaseURI: https://m.example/debian/\n", "https://m.example/debian-security"),
        (
            "BaseURI: http://s.example/debian-security/\nBaseURI: https://m.example/debian/\n",
            "http://s.example/debian-security",
        ),
        ("BaseURI: http://archive.example/ubuntu\n", None),
    ],
)
def test_another_distribution_knows_where_debian_is(text: str, expected: str | None) -> None:
    found = host.find_default(text)
    assert found == (host.Mirror("https://m.example/debian", expected) if expected else None)


def test_a_list_of_mirrors_is_followed(tmp_path: Path) -> None:
    (tmp_path / "debian.list").write_text("# mirrors\nhttps://m.example/debian\n")
    found = host.find_mirror([f"deb mirror+file:{tmp_path}/debian.list trixie main\n"])
    assert found and found.archive == "https://m.example/debian"


def test_the_environment_names_the_mirror_and_the_sandbox_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASALT_DEBIAN_MIRROR", "http://m.example/debian/")
    sandbox = host.write_sandbox(tmp_path)
    text = (sandbox / "etc/apt/sources.list.d/mkosi.sources").read_text()
    assert sandbox == tmp_path / "mkosi.sandbox"
    assert "URIs: http://m.example/debian\nSuites: trixie trixie-updates trixie-backports\n" in text
    assert "URIs: http://m.example/debian-security\nSuites: trixie-security\n" in text


def test_a_failed_program_says_what_and_why(tmp_path: Path) -> None:
    with pytest.raises(host.CommandError, match=r"sh -c .*: exit code 3\nbroken") as error:
        host.run(["sh", "-c", "echo broken >&2; exit 3"], log=tmp_path / "logs/x.log")
    assert str(tmp_path / "logs/x.log") in error.value.hint
    with pytest.raises(host.CommandError, match="no such program"):
        host.run(["/nonexistent/program"])
    with pytest.raises(host.CommandError, match=r"not finished after 0 s"):
        host.run(["sleep", "10"], timeout=0.1)


def test_the_builder_tree_gets_binds_and_variables_of_the_caller_only(tmp_path: Path) -> None:
    bind = trees.Bind(tmp_path, "/basalt/x")
    argv = trees.in_builder(
        ["go", "env"], binds=(bind,), env={"A": "b c"}, cwd="/basalt/x", tree=Path("/tree")
    )
    after = argv[argv.index("/tree") + 1 :]
    assert after[:5] == [str(tmp_path), "/basalt/x", "ro", "--", "/basalt/x"]
    assert after[-3:] == ["A=b c", "go", "env"]
    with pytest.raises(ValueError, match="under /basalt"):
        trees.in_builder(["true"], binds=(trees.Bind(tmp_path, "/etc"),), tree=Path("/tree"))


def test_expected_failures_have_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def main(args: object) -> int:
        raise BasaltError("no mirror", "Set one.")

    assert host.command_line(main) == 1
    assert capsys.readouterr().err == "error: no mirror\nhint: Set one.\n"
