"""Writing with an encoder and a decoder: what transformers' `generate` writes, and what one uncached pass answers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from blankfill.data.batching import collate
from blankfill.families import weight_names
from blankfill.families.options import ModelOptions
from blankfill.generation import engine
from blankfill.generation.beam import beam_search
from blankfill.generation.engine import Decoder, read_sources
from blankfill.model.transformer import Transformer, build
from blankfill.objectives.two_stacks import two_sided, two_stack_input
from blankfill.types import DecoderInput
from parity_cases import SIZES, Case, case_name, made, of

WORDS, LONGEST = 24, 14
CASES = [*of("t5")[:2], *of("bart")[:1]]
EAGER = {case_name(case): eager for case, eager in zip(CASES, (5.0, 14.0, 3.0), strict=True)}
"""Added to the score of the end, so that these random models come to one, at different lengths."""
START = {"t5": [0], "bart": [2, 0]}
"""What the decoder begins with: padding, or `</s> <s>`."""
END = {"t5": 1, "bart": 2}
FIRST = {"t5": 0, "bart": 2}
SOURCES = [
    np.random.default_rng(seed).integers(4, WORDS, size).tolist()
    for seed, size in enumerate([5, 12, 1, 9, 12, 3, 7, 2, 15, 4, 6, 11])
]


def pair(case: Case) -> tuple[Any, Transformer]:
    """A model of transformers whose words are few and whose weights are large, so that it ends and what it reads
    matters; and ours with its weights."""
    transformers = pytest.importorskip("transformers")
    assert "vocab_size" in SIZES[case.family]
    longer = {} if case.family == "t5" else {"max_position_embeddings": 64}
    theirs = made(transformers, case._replace(options={**case.options, "vocab_size": WORDS, **longer}), seed=3)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0 if case.family == "t5" else 4.0)
    names = weight_names()[case.family]
    values, source = theirs.config.to_dict(), theirs.state_dict()
    config = names.read(values, source.keys())
    ours = Transformer(config)
    ours.load_state_dict(names.table(config).to_ours(source, "the model"))
    return theirs, ours.eval()


def contexts(family: str) -> list[DecoderInput]:
    table = 66 if family == "bart" else 0
    return [two_stack_input([*ids, END[family]], START[family], FIRST[family], table) for ids in SOURCES]


def their_texts(theirs: Any, case: Case, beams: int, penalty: float, ngram: int) -> list[tuple[list[int], float]]:
    """(what transformers writes for each source in one padded batch; its score, of beams)."""
    family = case.family
    width = max(map(len, SOURCES)) + 1
    rows = [[*ids, END[family], *[0] * (width - len(ids) - 1)] for ids in SOURCES]
    real = [[1] * (len(ids) + 1) + [0] * (width - len(ids) - 1) for ids in SOURCES]
    out = theirs.generate(
        torch.tensor(rows), attention_mask=torch.tensor(real), num_beams=beams, do_sample=False, use_cache=True,
        decoder_input_ids=torch.tensor([START[family]] * len(SOURCES)), max_new_tokens=LONGEST + 1, min_new_tokens=1,
        suppress_tokens=[k for k in range(4) if k != END[family]],
        sequence_bias={(END[family],): EAGER[case_name(case)]},
        no_repeat_ngram_size=ngram, eos_token_id=END[family], pad_token_id=0, decoder_start_token_id=START[family][0],
        forced_eos_token_id=None, forced_bos_token_id=None, early_stopping=False,
        return_dict_in_generate=True, output_scores=True, **({"length_penalty": penalty} if beams > 1 else {}),
    )  # fmt: skip
    scores = out.sequences_scores.tolist() if beams > 1 else [0.0] * len(SOURCES)
    return [(row[len(START[family]) :], score) for row, score in zip(out.sequences.tolist(), scores, strict=True)]


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_texts_are_those_of_transformers(case: Case) -> None:
    """Greedy and by beams, in a batch whose sources are padded; compared where transformers comes to an end at all."""
    theirs, ours = pair(case)
    end = END[case.family]

    def grammar(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        ends = scores[:, end] + (EAGER[case_name(case)] if count else -math.inf)
        scores = scores.clone()
        scores[:, :4] = -math.inf
        return scores, ends

    for beams, penalty, ngram in ((1, 1.0, 0), (1, 1.0, 3), (4, 0.7, 0), (4, 1.5, 3)):
        decoder = Decoder(ours, contexts(case.family), LONGEST)
        results = beam_search(decoder, beams, grammar, LONGEST, penalty, ngram, thorough=False)
        lengths = set()
        for (ids, score), hypotheses in zip(their_texts(theirs, case, beams, penalty, ngram), results, strict=True):
            written, ended = list(hypotheses[0].ids), end in ids
            if beams == 1 or ended:
                assert written == ids[: ids.index(end) if ended else LONGEST]
                lengths.add(len(written))
            if beams > 1 and ended:
                assert hypotheses[0].score == pytest.approx(score, abs=1e-4)
        assert len(lengths) >= 2


@pytest.mark.parametrize("enough", [8, 256])
@pytest.mark.parametrize("family", ["t5", "t5-v1.1", "bart"])
def test_cached_rows_answer_as_the_row_of_training(family: str, enough: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources and texts begun of different lengths, read once, together or apart, whatever becomes of the rows."""
    monkeypatch.setattr(engine, "ENOUGH", enough)
    config = ModelOptions(family=family, hidden_size=32, num_layers=2, num_heads=4).config(WORDS, (40,))
    model = build(dataclasses.replace(config, init_std=0.3, position_std=0.3), seed=1).eval()
    first, size = (2, 40) if family == "bart" else (0, 0)
    begun = [[0, *ids[: k % 3]] for k, ids in enumerate(SOURCES[:4])]
    made = [two_stack_input(ids, begun[k], first, size) for k, ids in enumerate(SOURCES[:4])]
    new = torch.randint(4, WORDS, (4, 6), generator=torch.Generator().manual_seed(0))

    def reference(row: int, more: list[int]) -> torch.Tensor:
        written = [*begun[row][1:], *more, 1]
        example = two_sided(np.array(SOURCES[row], np.int32), np.array(written, np.int32), 0, first)
        with torch.inference_mode():
            hidden = model(collate([[example]], 0)).hidden[0, len(written) - 1]
            return model.lm_head(hidden, model.output_table)

    def check(scores: torch.Tensor, rows: list[int], written: list[list[int]]) -> None:
        expected = torch.stack([reference(row, more) for row, more in zip(rows, written, strict=True)])
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)

    reading = read_sources(model, made)
    assert reading is not None
    for decoder in (Decoder(model, made, 6), Decoder(model, made, 6, reading=reading)):
        check(decoder.prefill(), [0, 1, 2, 3], [[]] * 4)
        check(decoder.step(new[:, 0]), [0, 1, 2, 3], [[k] for k in new[:, 0].tolist()])
        begins, rows = new[:, :1].tolist(), [0, 1, 2, 3]
        for chosen in ([0, 0, 1, 1, 2, 2, 3, 3], [1, 0, 3, 2, 6, 7], [0, 1, 1, 5], [3, 0]):
            decoder.select(torch.tensor(chosen))
            rows = [rows[k] for k in chosen]
            begins = [[*begins[k], int(new[row, 1])] for k, row in zip(chosen, rows, strict=True)]
            check(decoder.step(new[rows, 1]), rows, begins)
    assert len(reading.hidden) == 4
    if size:
        assert Decoder(model, [two_stack_input([5] * 38, [0] * 36, 2, 40)], 9).room == 2
        with pytest.raises(ValueError, match="a source of 39 tokens; it must have 1 to 38"):
            two_stack_input([5] * 39, [0], 2, 40)
    with pytest.raises(ValueError, match="a text begun of 0 tokens"):
        two_stack_input([5], [])
