"""The trial of the package: which installed distributions a wheel depends on, by its metadata alone."""

from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from module_files import module_at

TOOL = Path(__file__).resolve().parents[1] / "tools" / "try_package.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return module_at("tools/try_package.py")


def wheel(folder: Path, *requirements: str) -> metadata.Distribution:
    """A distribution of the name "mine" with these requirements."""
    info = folder / "mine-1.0.dist-info"
    info.mkdir()
    lines = [
        "Metadata-Version: 2.1",
        "Name: mine",
        "Version: 1.0",
        *(f"Requires-Dist: {requirement}" for requirement in requirements),
    ]
    (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return metadata.Distribution.at(info)


def test_what_a_requirement_requires_is_found_and_extras_are_left_out(tool: ModuleType, tmp_path: Path) -> None:
    mine = wheel(tmp_path, "hypothesis", 'no-such-package; extra == "more"', 'neither; python_version < "3"')
    names = {distribution.metadata["Name"].lower() for distribution in tool.needed(mine)}
    # what hypothesis itself requires on Python 3.11, without its extras (numpy, pandas, django, …)
    assert {"hypothesis", "sortedcontainers"} <= names and "numpy" not in names


@pytest.mark.parametrize(
    ("requirement", "sentence"),
    [
        ("no-such-package>=2", "mine needs no-such-package>=2, which is not installed here; try --download"),
        ("pytest<1", f"mine needs pytest<1, and {metadata.version('pytest')} is installed here; try --download"),
    ],
)
def test_what_is_not_installed_is_named(tool: ModuleType, tmp_path: Path, requirement: str, sentence: str) -> None:
    with pytest.raises(SystemExit, match=f"^{sentence}$"):
        tool.needed(wheel(tmp_path, requirement))


def test_packages_are_linked_and_those_there_are_kept(tool: ModuleType, tmp_path: Path) -> None:
    target = tmp_path / "packages"
    (target / "pluggy").mkdir(parents=True)
    tool.link([metadata.distribution("pluggy"), metadata.distribution("iniconfig")], target)
    assert (target / "iniconfig" / "__init__.py").is_file() and (target / "iniconfig").is_symlink()
    assert not (target / "pluggy").is_symlink()
    assert not (target / "..").joinpath("bin").exists()
