"""Build the wheel and the source archive, and try the wheel in a fresh environment outside the checkout.

    python tools/try_package.py --out dist

The wheel is built from the source archive, so that both are proved whole. In a temporary folder a new environment gets
the wheel and what it depends on, and nothing else; there the installed program lists its recipes, trains a small model
on text that is made here, fills a blank, fine-tunes by a shipped pattern and writes its report. Ends with status 1 and
the command that failed.

The packages that the wheel depends on are linked from the environment of this interpreter, one by one as the wheel's
metadata says, so that nothing is downloaded but what builds the archives (hatchling), and so that a dependency that the
metadata lacks is missing in the new environment too. `--download` installs them with pip instead, as a user would.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "blankfill"
WORDS = [
    "the",
    "a",
    "old",
    "young",
    "small",
    "farmer",
    "teacher",
    "boat",
    "lantern",
    "paints",
    "finds",
    "sells",
    "great",
    "terrible",
]
SMALL = ["--train.steps", "6", "--train.eval-every", "6", "--train.batch-size", "4", "--train.threads", "1"]


def run(*command: str | Path, cwd: Path, **changes: str) -> str:
    """Run a command; returns its output. Ends the program with the output where the command fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**environment, **changes}, capture_output=True, text=True,
        encoding="utf-8", check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"failed ({done.returncode}): {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def data_files() -> list[str]:
    """The files of the package that are not Python, relative to `src`."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))
    return sorted(path.relative_to(PACKAGE.parent).as_posix() for path in files)


def build(out: Path) -> tuple[Path, Path]:
    """Build both archives into `out`; returns the wheel and the source archive."""
    for old in [*out.glob("blankfill-*.whl"), *out.glob("blankfill-*.tar.gz")]:
        old.unlink()
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=ROOT)
    (wheel,), (archive,) = out.glob("blankfill-*.whl"), out.glob("blankfill-*.tar.gz")
    return wheel, archive


def check_contents(wheel: Path, archive: Path) -> None:
    """End the program when one of the archives lacks a file that the program reads, or the source archive a page."""
    with zipfile.ZipFile(wheel) as opened:
        in_wheel = set(opened.namelist())
    with tarfile.open(archive) as opened_archive:
        in_archive = {name.split("/", 1)[1] for name in opened_archive.getnames() if "/" in name}
    pages = [path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))]
    pages = [page for page in pages if not page.startswith("docs/_build/")]
    missing = [name for name in data_files() if name not in in_wheel]
    in_source = [*(f"src/{name}" for name in data_files()), *pages, "LICENSE"]
    missing += [f"{name} (source archive)" for name in in_source if name not in in_archive]
    if missing:
        sys.exit(f"the archives lack {', '.join(missing)}")
    print(
        f"{wheel.name}: {len(in_wheel)} files, {wheel.stat().st_size / 1e6:.2f} MB; {len(data_files())} are data; "
        f"{archive.name}: {len(in_archive)} files, {len(pages)} pages"
    )


def needed(wheel: metadata.Distribution) -> list[metadata.Distribution]:
    """The installed distributions that a wheel depends on, and those that they depend on in turn, without extras.

    Ends the program when one is not installed beside this interpreter, or in a version that is not allowed.
    """
    required: dict[str, metadata.Distribution] = {}
    waiting = [(wheel.metadata["Name"], text) for text in wheel.requires or []]
    while waiting:
        by, text = waiting.pop()
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError:
            sys.exit(f"{by} needs {requirement}, which is not installed here; try --download")
        if not requirement.specifier.contains(installed.version, prereleases=True):
            sys.exit(f"{by} needs {requirement}, and {installed.version} is installed here; try --download")
        if requirement.name not in required:
            required[requirement.name] = installed
            waiting += [(requirement.name, inner) for inner in installed.requires or []]
    return list(required.values())


def link(distributions: list[metadata.Distribution], target: Path) -> None:
    """Link the files of distributions into the packages of another environment."""
    for distribution in distributions:
        for name in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (target / name).exists():
                (target / name).symlink_to(Path(str(distribution.locate_file(name))).resolve())


def install(wheel: Path, folder: Path, download: bool) -> Path:
    """Make an environment in `folder` with the wheel and what it depends on; returns the folder of its programs."""
    venv.create(folder / "env", with_pip=False, symlinks=os.name != "nt")
    scripts = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", scripts / "python", "--disable-pip-version-check", "install", "-q"]
    if download or os.name == "nt":  # where links need rights of their own
        run(*pip, wheel, cwd=folder)
        return scripts
    run(*pip, "--no-deps", "--no-index", wheel, cwd=folder)
    packages = Path(run(scripts / "python", "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip())
    (installed,) = metadata.distributions(name="blankfill", path=[str(packages)])
    link(needed(installed), packages)
    return scripts


def write_texts(folder: Path) -> None:
    """A text to train on, and a table of labelled texts."""
    generator = random.Random(0)
    sentences = [" ".join(generator.choices(WORDS, k=generator.randint(5, 12))) + "." for _ in range(1200)]
    (folder / "text.txt").write_text("\n\n".join(" ".join(sentences[k : k + 4]) for k in range(0, 1200, 4)), "utf-8")
    rows = [f"{sentence}\t{int('old' in sentence)}\n" for sentence in sentences[:80]]
    (folder / "table.tsv").write_text("sentence\tlabel\n" + "".join(rows), "utf-8")


def try_wheel(wheel: Path, download: bool = False) -> None:
    """Install the wheel in a fresh environment and use the program there as a new user would."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scripts = install(wheel, folder, download)
        python, program = scripts / "python", scripts / "blankfill"
        where = run(python, "-c", "import blankfill; print(blankfill.__file__)", cwd=folder).strip()
        if str(ROOT) in where:
            sys.exit(f"the fresh environment imports the checkout, {where}")
        print(run(program, "--version", cwd=folder).strip(), "in a fresh environment")
        recipes = run(python, "-c", "import blankfill; print(*blankfill.recipe_names())", cwd=folder).split()
        shipped = {path.stem for path in (PACKAGE / "config" / "recipes").glob("*.yaml")} - {"base"}
        if absent := sorted(shipped - set(recipes)):
            sys.exit(f"the installed program does not list the recipes {', '.join(absent)}")
        write_texts(folder)
        run(program, "pretrain", "text.txt", "--recipe", "bert-nano", "--out", "run", *SMALL, cwd=folder)
        filled = run(program, "fill", "--model", "run", "the old [MASK] finds a boat.", cwd=folder)
        if len(filled.split()) < 3:
            sys.exit(f"`blankfill fill` printed {filled!r}")
        run(
            program, "finetune", "--from", "run", "--task", "sst2", "--data", "table.tsv", "--out", "tuned",
            "--method", "cloze", "--epochs", "1", "--batch-size", "8", "--threads", "1", cwd=folder,
        )  # fmt: skip
        for file in ("run/report.html", "tuned/report.html", "tuned/results.json"):
            if not (folder / file).is_file():
                sys.exit(f"the installed program did not write {file}")
        print("recipes, pretraining, filling, fine-tuning by a shipped pattern and reports work from the wheel")


def main() -> None:
    """Build, check and try the archives."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the archives")
    parser.add_argument("--download", action="store_true", help="install what the wheel depends on with pip")
    given = parser.parse_args()
    began = time.perf_counter()
    given.out.mkdir(parents=True, exist_ok=True)
    wheel, archive = build(given.out.resolve())
    check_contents(wheel, archive)
    built = time.perf_counter()
    try_wheel(wheel, given.download)
    print(f"built in {built - began:.0f} s, tried in {time.perf_counter() - built:.0f} s")


if __name__ == "__main__":
    main()
