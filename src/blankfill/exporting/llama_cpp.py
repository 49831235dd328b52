"""What llama.cpp reads and computes from an exported file, where xllamacpp is installed, which has it built.

llama.cpp ends the whole process when a file is not as it expects, so it runs in one of its own: this module is its
program too (`python -m blankfill.exporting.llama_cpp FILE REQUEST ANSWER`). It runs as a server on this machine.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded
    from blankfill.convert.gguf_layout import Pooling
    from blankfill.convert.gguf_tokenizer import Frame
    from blankfill.convert.score_change import ScoreChange

PACKAGE = "xllamacpp"
PLACES = 4
"""Places in a text after which the next token is compared."""
LONGEST_TEXT = 400
"""Characters of a text at most."""
PATIENCE = 1800
"""Seconds that llama.cpp may take for all texts."""
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
    loaded: Loaded,
    file: Path,
    texts: Sequence[str],
    frame: Frame,
    pooling: Pooling,
    expected: ScoreChange,
    where: object,
) -> LlamaCheck | None:
    """Return what llama.cpp reads and computes from a file; None where xllamacpp is not installed.

    expected: change of the scores by the numbers of the file. where: the model, for sentences.

    Raises:
        UserError: llama.cpp cannot read the file, or computes something else.
    """
    import torch

    from blankfill.convert.check import our_scores
    from blankfill.convert.score_change import ScoreComparison
    from blankfill.errors import UserError
    from blankfill.exporting.framing import framed_ids, vector_of
    from blankfill.system.environment import has_module

    if not has_module(PACKAGE):
        return None
    cut = [text[:LONGEST_TEXT] for text in texts]
    rows = [framed_ids(loaded, text, frame) for text in cut]
    causal = loaded.objective.causal
    request = {
        "causal": causal, "texts": cut, "rows": rows, "context": len(max(rows, key=len)) + 8,
        "outputs": loaded.model.config.vocab_size,
    }  # fmt: skip
    answer = _run(file, request, where)
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
            known = ~made.isnan().any(-1)
            columns = [end - 1 for end, scored in zip(ends_of(ids), known.tolist(), strict=True) if scored]
            row = loaded.format.export_row(np.array(ids[:-1], np.int32))
            targets = torch.tensor([ids[column + 1] for column in columns])
            with torch.inference_mode():
                comparison.add_scores(our_scores(loaded, row)[columns], made[known], targets)
        else:
            comparison.add_vectors(vector_of(loaded, ids, pooling), made)
    change = comparison.result()
    worse = (
        change.kl_mean > expected.kl_mean + ALLOWED_KL if causal else change.cosine < expected.cosine - ALLOWED_COSINE
    )
    if same and worse:
        raise UserError(
            f"{where}: llama.cpp computes other scores from the file than its numbers give ({change.text()}; expected "
            f"{expected.text()}); please report this"
        )
    return LlamaCheck(len(cut), same, change, example)


def _run(file: Path, request: dict[str, Any], where: object) -> dict[str, Any]:
    """Return the answer of llama.cpp, arrays by name. Raises UserError where there is none within `PATIENCE`."""
    from blankfill.errors import UserError, setting

    with tempfile.TemporaryDirectory() as place:
        question, answer = Path(place) / "request.json", Path(place) / "answer.npz"
        question.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", __name__, str(file), str(question), str(answer)]
        try:
            run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"{where}: llama.cpp did not answer within {PATIENCE // 60} minutes for the file that was written; "
                f"give fewer lines with {setting('text')}, or uninstall {PACKAGE} to write the file unread"
            ) from error
        if run.returncode or not answer.is_file():
            lines = [line for line in run.stderr.splitlines() if line.strip() and not line[0].isdigit()]  # not its log
            last = (lines or ["no message"])[-1]
            raise UserError(f"{where}: llama.cpp cannot read the file that was written ({last}); please report this")
        with np.load(answer, allow_pickle=False) as made:
            return dict(made)


def ends_of(ids: Sequence[int]) -> list[int]:
    """Return the lengths of the beginnings of a row after which the next token is compared."""
    return sorted({max(1, len(ids) * part // PLACES - 1) for part in range(1, PLACES + 1)})


def main(file: str, request: str, answer: str) -> None:
    """Read a file with llama.cpp and write the ids and scores of texts."""
    package: Any = importlib.import_module(PACKAGE)
    given = json.loads(Path(request).read_text(encoding="utf-8"))
    settings = package.CommonParams()
    settings.model.path, settings.port, settings.n_parallel, settings.warmup = file, 0, 1, False
    settings.n_ctx = settings.n_batch = settings.n_ubatch = int(given["context"])
    settings.embedding, settings.embd_normalize = not given["causal"], -1
    server = package.Server(settings)

    def post(path: str, values: dict[str, Any]) -> Any:
        data, headers = json.dumps(values).encode(), {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(server.listening_address + path, data, headers)) as reply:
            return json.load(reply)

    made: dict[str, Any] = {}
    for k, (text, ids) in enumerate(zip(given["texts"], given["rows"], strict=True)):
        read = post("/tokenize", {"content": text, "add_special": True, "parse_special": False})["tokens"]
        made[f"ids{k}"] = np.array(read, np.int64)
        if len(ids) < 2:
            continue
        if not given["causal"]:
            made[f"scores{k}"] = np.array(post("/embedding", {"content": ids})[0]["embedding"][0], np.float32)
            continue
        scores = np.full((len(ends_of(ids)), given["outputs"]), -np.inf, np.float32)
        for place, end in enumerate(ends_of(ids)):
            values = {"prompt": ids[:end], "n_predict": 1, "n_probs": given["outputs"], "temperature": -1}
            reply = post("/completion", values)
            if "completion_probabilities" not in reply:  # it writes the end, or a part of a character
                scores[place] = np.nan
                continue
            for entry in reply["completion_probabilities"][0]["top_logprobs"]:
                scores[place, entry["id"]] = entry["logprob"]
        made[f"scores{k}"] = scores
    np.savez(answer, **made)
    sys.stderr.flush()
    os._exit(0)  # the server's threads would wait for each other


if __name__ == "__main__":
    main(*sys.argv[1:])
