"""`make fuzz`: damaged files for as long as one likes, each reader in a process of its own.

Where atheris is installed (Linux and macOS), it chooses the damage by which lines of the reader an input reaches; the
mutations of the tests serve elsewhere. An input that fails is kept in `odd/`, where the tests read it from then on.

    python -m fuzz [--minutes 10] [--target NAME]         (in tests/)
"""

from __future__ import annotations

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ODD = Path(__file__).parent / "odd"
OPTIONS = (
    "-rss_limit_mb=6000", "-timeout=60", "-max_len=65536", "-print_final_stats=0", "-verbosity=0", "-close_fd_mask=3",
    f"-artifact_prefix={tempfile.gettempdir()}/",
)  # fmt: skip
"""Of libFuzzer, which atheris drives."""


def one_target(name: str, seconds: float) -> int:
    """Fuzz one reader; returns 1 and keeps the input when it fails."""
    try:
        import atheris
    except ImportError:
        atheris = None
    from fuzz.mutate import mutations
    from fuzz.targets import TARGETS
    from fuzz.test_fuzz import check

    target = next(target for target in TARGETS if target.name == name)
    folder = Path(tempfile.mkdtemp(prefix="blankfill-fuzz-"))
    target.setup(folder)

    def attempt(data: bytes) -> None:
        try:
            check(target, folder, data)
        except BaseException as error:
            saved = ODD / f"{name}.{hashlib.sha256(data).hexdigest()[:12]}"
            ODD.mkdir(exist_ok=True)
            saved.write_bytes(data)
            print(f"{name}: {type(error).__name__}: {str(error)[:300]}; kept as {saved.name}", file=sys.__stderr__)
            raise

    if atheris is not None:
        with atheris.instrument_imports(include=["blankfill"]):  # readers are imported when they are first used
            for data in target.seeds():
                attempt(data)
        seeds = folder.with_name(folder.name + "-seeds")
        seeds.mkdir()
        for number, data in enumerate(mutations(target.seeds(), 200, random.Random(name))):
            (seeds / str(number)).write_bytes(data)
        atheris.Setup([sys.argv[0], f"-max_total_time={int(seconds)}", *OPTIONS, str(seeds)], attempt)
        atheris.Fuzz()
        return 0
    end, seed = time.monotonic() + seconds, random.SystemRandom().randrange(1 << 30)
    for data in mutations(target.seeds(), 1 << 60, random.Random(seed)):
        attempt(data)
        if time.monotonic() > end:
            return 0
    return 0


def main() -> int:
    """Fuzz all readers in turn, the time shared out evenly."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="for all readers together (10)")
    parser.add_argument("--target", default=None, help="one reader; all without it")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        return one_target(args.target, 60 * args.minutes)
    from fuzz.targets import TARGETS

    names = [args.target] if args.target else [target.name for target in TARGETS]
    failed = []
    known = set(ODD.glob("*"))
    for name in names:
        print(f"{name} …", flush=True)
        command = [
            sys.executable,
            "-m",
            "fuzz",
            "--alone",
            "--target",
            name,
            "--minutes",
            str(args.minutes / len(names)),
        ]
        if subprocess.run(command, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL, check=False).returncode:
            failed.append(name)
            for saved in sorted(set(ODD.glob("*")) - known):  # libFuzzer has closed what its process could say it on
                print(f"  kept as {saved}", flush=True)
            known |= set(ODD.glob("*"))
    print(
        f"{len(names) - len(failed)} of {len(names)} readers hold"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
