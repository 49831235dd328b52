"""Build the wheel and the source archive, and try the wheel in a fresh environment outside the checkout.

    python tools/try_package.py --out dist

The wheel is built from the source archive, so that both are proved whole. In a temporary folder a new environment gets
the wheel and what it depends on; there the installed program lists its recipes, reads its patterns, draws an example,
trains a small model on text that is made here, fills a blank, fine-tunes by a shipped pattern and writes its report.
Ends with status 1 and the command that failed.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

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
    """End the program when one of the archives lacks a file that the program reads."""
    with zipfile.ZipFile(wheel) as opened:
        in_wheel = set(opened.namelist())
    with tarfile.open(archive) as opened_archive:
        in_archive = {name.split("/", 1)[1] for name in opened_archive.getnames() if "/" in name}
    missing = [name for name in data_files() if name not in in_wheel]
    missing += [f"{name} (source archive)" for name in data_files() if f"src/{name}" not in in_archive]
    if missing:
        sys.exit(f"the archives lack {', '.join(missing)}")
    print(f"{wheel.name}: {len(in_wheel)} files, {wheel.stat().st_size / 1e6:.2f} MB; {len(data_files())} are data")


def write_texts(folder: Path) -> None:
    """A text to train on, and a table of labelled texts."""
    generator = random.Random(0)
    sentences = [" ".join(generator.choices(WORDS, k=generator.randint(5, 12))) + "." for _ in range(1200)]
    (folder / "text.txt").write_text("\n\n".join(" ".join(sentences[k : k + 4]) for k in range(0, 1200, 4)), "utf-8")
    rows = [f"{sentence}\t{int('old' in sentence)}\n" for sentence in sentences[:80]]
    (folder / "table.tsv").write_text("sentence\tlabel\n" + "".join(rows), "utf-8")


def try_wheel(wheel: Path) -> None:
    """Install the wheel in a fresh environment and use the program there as a new user would."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "env", with_pip=True)
        scripts = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
        python, program = scripts / "python", scripts / "blankfill"
        run(python, "-m", "pip", "install", "--disable-pip-version-check", "-q", wheel, cwd=folder)
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
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    wheel, archive = build(out)
    check_contents(wheel, archive)
    try_wheel(wheel)


if __name__ == "__main__":
    main()
