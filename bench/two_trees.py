"""The same work in two source trees: is the newer one as fast as the older one?

    python bench/two_trees.py BEFORE AFTER --text NOVEL.txt --glue GLUE --work /tmp/two-trees --json trees.json

BEFORE and AFTER are checkouts; the text trains a small model of each objective, in each tree with its own code and the
same seed, and the models are kept in `--work`. GLUE is a folder with SST-2. Each line of the table is one piece of work
(`WORKS`): a training step, a short run from corpus to report, filled blanks, written texts, vectors, an epoch of fine-
tuning. Two processes, one for each tree, take turns (`side_by_side`): one piece of work at a time, on one thread, by
the processor's clock, so that other programs of the machine matter little. Printed are the milliseconds before, the
median of the ratios of the rounds with its quartiles, and whether both trees gave the same result to the bit, where
there is one. `--path` is a folder with packages that the older tree alone imports.

Names that differ between the trees are tried in turn, the newer first. Not here: other programs (`training_step.py`,
`finetune.py`, `generation.py`).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from side_by_side import compete, load_note, serve, write

TREES = ("before", "after")
STEPS = 12
"""Steps that a model of the works is trained for."""
OBJECTIVES = ("bert", "glm", "gpt", "t5", "bart", "unilm", "xlnet")
SENTENCES = (
    "It was a [MASK] night, and the old man sat by the fire.",
    "She could not [MASK] what he had said to her [MASK] that morning.",
    "The house at the end of the [MASK] had been empty for years.",
)
PROMPT = "It was a dark night, and the old man"
WRITTEN = 96
"""Tokens of each written text."""
Work = Callable[[], Any]


def found(*places: str) -> Any:
    """Return the first of `module:name` that this tree has."""
    for place in places:
        module, name = place.split(":")
        try:
            return getattr(importlib.import_module(f"blankfill.{module}"), name)
        except (ImportError, AttributeError):
            continue
    raise LookupError(f"this tree has none of {', '.join(places)}")


def model_folder(spec: dict[str, Any], objective: str) -> Path:
    """Return the trained model of a tree."""
    return Path(spec["work"]) / spec["tree"] / objective


def opened(spec: dict[str, Any], objective: str) -> Any:
    """Return a trained model, laid out for single tokens where its objective writes."""
    loaded = found("checkpoint.load:load_model")(model_folder(spec, objective))
    found("model.layout:optimize_for_inference", "model.layout:lay_out_to_write")(loaded.model)
    return loaded


def train(spec: dict[str, Any], objective: str, out: Path, steps: int, text: Path) -> Any:
    """Pretrain a nano model by the recipe of an objective."""
    load_recipe = found("config.recipe:load_recipe", "recipe:load_recipe")
    pretrain = found("pretraining.run:pretrain", "run:pretrain")
    changes = {
        "train.steps": steps, "train.threads": 1, "train.precision": "fp32", "train.device": "cpu", "train.workers": 0,
        "train.batch_size": 4, "train.eval_every": 12, "train.eval_rows": 8, "corpus.workers": 1,
        "corpus.vocab_size": 8000, "corpus.vocab_exact": False, "seed": 7,
    }  # fmt: skip
    with silence():
        return pretrain([text], load_recipe(f"{objective}-nano", changes), out)


@contextmanager
def silence() -> Iterator[None]:
    """Keep what runs print from the answers of a worker."""
    with open(os.devnull, "w", encoding="utf-8") as nothing:
        old = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = nothing
        try:
            yield
        finally:
            sys.stdout, sys.stderr = old


def step(objective: str, spec: dict[str, Any]) -> Work:
    """A training step of 4 rows of 128 tokens, four layers of width 256."""
    import torch

    shape = found("planning.bench:Shape", "train.bench:Shape")
    bench = found("planning.bench:Bench", "train.bench:Bench")(
        shape(objective, 4, 256, rows=4, vocabulary=8000), torch.device("cpu"), torch.float32
    )

    def work() -> Any:
        bench.steps(1)

    return work


def run(objective: str, spec: dict[str, Any]) -> Work:
    """A run of 30 steps of a prepared corpus, its checkpoint and its report."""
    corpus = model_folder(spec, objective) / "corpus"

    def work() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            result = train(spec, objective, Path(folder, "run"), 30, corpus)
            return float(result.valid_loss).hex()

    return work


def fill(objective: str, spec: dict[str, Any]) -> Work:
    """Blanks of three sentences filled."""
    filler = found("generation.fill:Filler", "generate.fill:Filler")(opened(spec, objective))

    def work() -> Any:
        return [
            [(candidate.ids, candidate.probability) for blank in filler.fill(text).candidates for candidate in blank]
            for text in SENTENCES
        ]

    return work


def generate(objective: str, rows: int, settings: dict[str, Any], spec: dict[str, Any]) -> Work:
    """Texts of `rows` rows written after a prompt."""
    loaded = opened(spec, objective)
    sampling = found("generation.sampling:Sampling", "generate.sampling:Sampling")(**settings)
    many = found("generation.write:generate_many", "generate.write:generate_many")

    def work() -> Any:
        return [written.ids for written in many(loaded, [PROMPT] * rows, WRITTEN, sampling)]

    return work


def beams(objective: str, spec: dict[str, Any]) -> Work:
    """A text written by a search with four beams that never ends early."""
    loaded = opened(spec, objective)
    writer = found("generation.write:Writer", "generate.write:Writer")
    sampling = found("generation.sampling:Sampling", "generate.sampling:Sampling")()
    decoder = found("generation.engine:Decoder", "generate.engine:Decoder")
    search = found("generation.beam:beam_search", "generate.beam:beam_search")
    contexts = writer(loaded, [PROMPT], WRITTEN, sampling, False).contexts

    def grammar(scores: Any, count: int) -> tuple[Any, Any]:
        return scores, scores.new_full((len(scores),), 0.0 if count == WRITTEN else -math.inf)

    def work() -> Any:
        hypotheses = search(decoder(loaded.model, contexts, WRITTEN), 4, grammar, WRITTEN, 1.0, thorough=False)
        return [(hypothesis.ids, hypothesis.score) for hypothesis in hypotheses[0]]

    return work


def embed(objective: str, spec: dict[str, Any]) -> Work:
    """Vectors of 256 sentences of SST-2."""
    loaded = found("checkpoint.load:load_model")(model_folder(spec, objective))
    embedder = found("embedding.embed:Embedder", "tasks.embed:Embedder")(loaded)
    lines = Path(spec["glue"], "SST-2", "dev.tsv").read_text(encoding="utf-8").splitlines()[1:257]
    texts = [line.split("\t")[0] for line in lines]

    def work() -> Any:
        return embedder.vectors(texts).array.tobytes()

    return work


def finetune(objective: str, method: str, spec: dict[str, Any]) -> Work:
    """An epoch on 256 sentences of SST-2, 128 scored, predictions and report."""
    options = found("tasks.options:FinetuneOptions")
    names = {field.name for field in importlib.import_module("dataclasses").fields(options)}
    sizes = {"max_train_samples": 256, "max_eval_samples": 128, "train_items": 256, "eval_items": 128}
    chosen = options(
        **{name: size for name, size in sizes.items() if name in names}, epochs=1, batch_size=16, threads=1,
        precision="fp32", max_length=64, lr=1e-3, seed=7, method=method,
    )  # fmt: skip
    config = found("finetuning.config:FinetuneConfig", "finetune:Request")
    function = found("finetuning.run:finetune", "finetune:finetune")
    request = config("sst2", Path(spec["glue"]), model_folder(spec, objective), chosen)

    def work() -> Any:
        with tempfile.TemporaryDirectory() as folder, silence():
            return float(function(request, Path(folder, "run")).score).hex()

    return work


GREEDY: dict[str, Any] = {"temperature": 0.0}
SAMPLED: dict[str, Any] = {"top_k": 40, "seed": 3}
WORKS: dict[str, Callable[[dict[str, Any]], Work]] = {
    **{f"step {name}": partial(step, name) for name in ("bert", "glm", "t5", "xlnet")},
    **{f"run {name}": partial(run, name) for name in ("bert", "glm")},
    **{f"fill {name}": partial(fill, name) for name in ("bert", "glm", "t5", "bart", "xlnet", "unilm")},
    **{
        f"generate {name}, {how}": partial(generate, name, rows, settings)
        for name in ("gpt", "glm")
        for how, rows, settings in (
            ("greedy", 1, GREEDY), ("1 sampled", 1, SAMPLED), ("8 sampled", 8, SAMPLED),
        )
    },
    **{f"generate {name}, 4 beams": partial(beams, name) for name in ("gpt", "glm")},
    "embed 256, bert": partial(embed, "bert"),
    "finetune bert, head": partial(finetune, "bert", "head"),
    "finetune bert, cloze": partial(finetune, "bert", "cloze"),
}  # fmt: skip
SECONDS = 0.15
"""Processor seconds of a turn, at least."""


def enter(spec: dict[str, Any]) -> None:
    """Make the tree of the specification the one that is imported, here and in programs started here."""
    more = [str(Path(spec[spec["tree"]], "src")), *([spec["path"]] if spec["path"] else [])]
    sys.path[:0] = more
    os.environ["PYTHONPATH"] = os.pathsep.join(more)
    import torch

    import blankfill

    if not Path(blankfill.__file__).is_relative_to(Path(spec[spec["tree"]]).resolve()):
        raise SystemExit(f"{blankfill.__file__} is imported instead of {spec[spec['tree']]}")
    torch.set_num_threads(1)


def build(name: str, spec: dict[str, Any]) -> tuple[Work, dict[str, Any]]:
    """Return a worker of one tree, which does the works in turn; short ones are repeated, for the clock's sake.

    The first call prepares them all. The number of turns in a cycle is odd, so that each tree comes first in every
    other one (`side_by_side.compete` turns the order round after each round).
    """
    spec = {**spec, "tree": name}
    enter(spec)
    works: list[Work] = []
    facts: dict[str, Any] = {"digests": [], "counts": []}
    turns = itertools.count()

    def repeat() -> None:
        if not works:
            for chosen in spec["works"]:
                works.append(WORKS[chosen](spec))
                result = works[-1]()
                facts["digests"].append(result and hashlib.sha256(repr(result).encode()).hexdigest()[:12])
                began = time.process_time()
                works[-1]()
                facts["counts"].append(max(1, math.ceil(SECONDS / (time.process_time() - began))))
            return
        turn = next(turns) % cycle(works)
        if turn < len(works):
            for _ in range(facts["counts"][turn]):
                works[turn]()

    return repeat, facts


def cycle(works: Sequence[Any]) -> int:
    """Return the turns in which every work is done once: an odd number."""
    return len(works) // 2 * 2 + 1


def train_models(spec: dict[str, Any], objectives: Sequence[str]) -> None:
    """Train the models that are not there yet, in a process of the tree."""
    enter(spec)
    for objective in objectives:
        folder = model_folder(spec, objective)
        if not (folder / "report.html").exists():
            train(spec, objective, folder, STEPS, Path(spec["text"]))
            print(f"{spec['tree']}: trained {objective}", flush=True)


def main() -> None:
    """Train what is missing, measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--text", type=Path, required=True, help="a text of some 50,000 words")
    parser.add_argument("--glue", type=Path, required=True, help="a folder with SST-2")
    parser.add_argument("--work", type=Path, required=True, help="where the models are kept")
    parser.add_argument("--path", default="", help="packages that one of the trees needs and the other does not")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of the names of works")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if note := load_note():
        print(note)
    spec: dict[str, Any] = {
        name: str(getattr(given, name).resolve()) for name in ("before", "after", "text", "glue", "work")
    }
    spec |= {"path": given.path, "threads": 1}
    for tree in TREES:
        line = [sys.executable, __file__, "--train", json.dumps({**spec, "tree": tree})]
        subprocess.run(line, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    works = [name for name in WORKS if name.startswith(tuple(given.only))]
    before, after = compete(Path(__file__), TREES, {**spec, "works": works}, given.rounds * cycle(works), 1)
    if before.unable or after.unable:
        raise SystemExit(before.unable or after.unable)
    print(f"{'work':<26} {'ms before':>9} {'after/before':>12} {'(quartiles)':>13}  result")
    lines = [compared_works(turn, works, before, after) for turn in range(len(works))]
    for line in lines:
        print(line.pop("text"))
    print(f"most memory, after/before: {after.facts['memory'] / before.facts['memory']:.3f}")
    write(given.json, lines)


def compared_works(turn: int, works: Sequence[str], before: Any, after: Any) -> dict[str, Any]:
    """Return the line of one work: the ratio of processor time of every round."""
    each, others = (
        [seconds / tree.facts["counts"][turn] for (seconds,) in tree.processor[turn :: cycle(works)]]
        for tree in (before, after)
    )
    ratios = [new / old for new, old in zip(others, each, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    digests = [tree.facts["digests"][turn] for tree in (before, after)]
    same = digests[0] == digests[1] if digests[0] else None
    seconds = statistics.median(each)
    text = (
        f"{works[turn]:<26} {seconds * 1e3:>9.1f} {middle:>12.3f} {f'({low:.3f}–{high:.3f})':>13}  "
        f"{'' if same is None else 'the same' if same else 'NOT the same'}"
    )
    return {"work": works[turn], "seconds": seconds, "ratio": middle, "low": low, "high": high, "ratios": ratios,
            "same": same, "text": text}  # fmt: skip


if __name__ == "__main__":
    if "--worker" in sys.argv:
        serve(build)
    elif "--train" in sys.argv:
        given_spec: dict[str, Any] = json.loads(sys.argv[-1])
        train_models(given_spec, OBJECTIVES)
    else:
        main()
