"""What llama.cpp reads and computes from an exported file, where llama-cpp-python is installed.

llama.cpp ends the whole process when a file is not as it expects, so it runs in one of its own: this module is its
program too (`python -m blankfill.exporting.llama_cpp FILE REQUEST ANSWER`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded
    from blankfill.convert.gguf_layout import Pooling
    from blankfill.convert.gguf_tokenizer import Frame
    from blankfill.exporting.score_change import ScoreChange

LONGEST_TEXT = 400
"""Characters of a text at most."""
ALLOWED_KL = 0.05
"""Nats by which scores may differ from the model's beyond what the numbers of the file make of them."""
ALLOWED_COSINE = 0.01
"""The same for the cosine of vectors."""


@dataclass(frozen=True)
class LlamaCheck:
    """What llama.cpp computed. texts: number of texts. same_ids: number of those that it reads as the same tokens.
    change: its scores against the model's, on these. example: beginning of a text that it reads otherwise, or ""."""

    texts: int
    same_ids: int
    change: ScoreChange
    example: str = ""

    def text(self) -> str:
        """Return the check in words."""
        read = f"llama.cpp reads {self.same_ids} of {self.texts} texts as the same tokens"
        return f"{read}; its scores: {self.change.text()}" if self.same_ids else read


def compare_with_llama_cpp(
    loaded: Loaded, file: Path, texts: Sequence[str], frame: Frame, pooling: Pooling, expected: ScoreChange, where: object
) -> LlamaCheck | None:
    """Return what llama.cpp reads and computes from a file; None where llama-cpp-python is not installed.

    expected: change of the scores by the numbers of the file. where: the model, for sentences.

    Raises:
        UserError: llama.cpp cannot read the file, or computes something else.
    """
    import torch

    from blankfill.errors import UserError
    from blankfill.exporting.framing import framed_ids, vector_of
    from blankfill.exporting.score_change import ScoreComparison
    from blankfill.convert.check import our_scores
    from blankfill.system.environment import has_module

    if not has_module("llama_cpp"):
        return None
    cut = [text[:LONGEST_TEXT] for text in texts]
    rows = [framed_ids(loaded, text, frame) for text in cut]
    causal = loaded.objective.causal
    answer = _run(file, {"causal": causal, "texts": cut, "rows": rows, "context": len(max(rows, key=len)) + 8}, where)
    comparison, same, example = ScoreComparison(expected.bits), 0, ""
    for k, (text, ids) in enumerate(zip(cut, rows, strict=True)):
        theirs = answer[f"ids{k}"].tolist()[: len(ids)]
        whole = [*ids[:-1], theirs[-1]] if frame.last is not None and theirs else ids  # a cut text is closed earlier
        if theirs != whole:
            example = example or text[:60]
            continue
        same += 1
        if len(ids) < 2:
            continue
        made = torch.from_numpy(answer[f"scores{k}"])
        if causal:
            row = loaded.format.export_row(np.array(ids[:-1], np.int32))
            comparison.add_scores(our_scores(loaded, row), made[: len(ids) - 1], torch.tensor(ids[1:]))
        else:
            comparison.add_vectors(vector_of(loaded, ids, pooling), made)
    change = comparison.result()
    worse = change.kl_mean > expected.kl_mean + ALLOWED_KL if causal else change.cosine < expected.cosine - ALLOWED_COSINE
    if same and worse:
        raise UserError(
            f"{where}: llama.cpp computes other scores from the file than its numbers give ({change.text()}; expected "
            f"{expected.text()}); please report this"
        )
    return LlamaCheck(len(cut), same, change, example)


def _run(file: Path, request: dict[str, Any], where: object) -> dict[str, Any]:
    """Return the answer of llama.cpp, arrays by name."""
    from blankfill.errors import UserError

    with tempfile.TemporaryDirectory() as place:
        asked, answer = Path(place) / "request.json", Path(place) / "answer.npz"
        asked.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", __name__, str(file), str(asked), str(answer)]
        run = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if run.returncode or not answer.is_file():
            last = (run.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"{where}: llama.cpp cannot read the file that was written ({last}); please report this")
        with np.load(answer, allow_pickle=False) as made:
            return dict(made)


def main(file: str, request: str, answer: str) -> None:
    """Read a file with llama.cpp and write the ids and scores of texts."""
    import llama_cpp

    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    size = min(int(asked["context"]), 4096)
    model = llama_cpp.Llama(
        model_path=file, n_ctx=size, n_batch=size, n_ubatch=size, n_threads=1, n_threads_batch=1, verbose=False,
        logits_all=asked["causal"], embedding=not asked["causal"],
    )  # fmt: skip
    made: dict[str, Any] = {}
    for k, (text, ids) in enumerate(zip(asked["texts"], asked["rows"], strict=True)):
        made[f"ids{k}"] = np.array(model.tokenize(text.encode(), add_bos=True, special=False), np.int64)
        if len(ids) < 2:
            continue
        if asked["causal"]:
            model.reset()
            model.eval(ids)
            made[f"scores{k}"] = np.array(model.scores[: len(ids)], np.float32)
        else:
            made[f"scores{k}"] = np.array(model.embed(text, normalize=False), np.float32)
    np.savez(answer, **made)


if __name__ == "__main__":
    main(*sys.argv[1:])
