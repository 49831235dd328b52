"""How a model is fine-tuned: the options, as BERT (Devlin et al. 2019, A.3) and RoBERTa give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from blankfill.system.bounds import COUNT, SHARE, SOME, STEEPEST, Bound, above, at_least, below, out_of_bounds
from blankfill.training.options import Precision, TrainOptions
from blankfill.training.schedule import Schedule

ClassWeights = Literal["none", "balanced"]
Features = Literal["none", "last", "second-to-last", "sum-last-4", "concat-last-4", "weighted-sum"]
HeadKind = Literal["linear", "bilstm"]
Method = Literal["head", "cloze", "text"]
MultiToken = Literal["surest-first", "at-once"]
Blank = Literal["mask", "gmask"]
HeadOn = Literal["auto", "encoder", "decoder"]


MOST_BEAMS = 1024
"""Ways of going on that a search may follow."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """Options of a fine-tuning run."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(("lr", "epochs", "distil_epochs", "mixing_temperature"), above(0)),
        **dict.fromkeys(("batch_size", "stride", "max_query_length", "max_answer_length"), SOME),
        **dict.fromkeys(
            ("max_length", "embedding_lr_multiplier", "warmup", "weight_decay", "max_grad_norm", "eval_every",
             "patience", "micro_batch", "max_train_samples", "mlm_weight", "max_target_length", "mixing_limit",
             "no_repeat_ngram", "max_eval_samples"), COUNT
        ),
        "beams": at_least(1, MOST_BEAMS),
        "length_penalty": Bound(-STEEPEST, STEEPEST),
        "label_smoothing": below(1),
        **dict.fromkeys(("pseudo_noise", "target_noise"), SHARE),
        "validation_split": Bound(0, 1, above=True, below=True),
        "layer_decay": above(0, 1),
        "freeze": at_least(-1),
        "lstm_size": at_least(1, 2**16),
        "lora_rank": at_least(0, 2**16),
    }  # fmt: skip

    lr: float = 3e-5
    """Peak learning rate (BERT: 5e-5, 4e-5, 3e-5 or 2e-5)."""
    embedding_lr_multiplier: float = 0.0
    """Learning rate of the token embeddings, as a multiple of `lr`. 0: the multiplier that the model was pretrained
    with; 1 for imported models."""
    batch_size: int = 32
    """Items of a step (BERT: 16 or 32)."""
    epochs: float = 3.0
    """How often the training items are gone through; a part of an epoch counts (BERT: 2 to 4)."""
    max_length: int = 0
    """Tokens of an item, special ones included; longer texts are cut, and that is told. 0: as many as the model has
    positions."""
    stride: int = 128
    """Questions: tokens by which each window of a long context begins further on."""
    max_query_length: int = 64
    """Questions: tokens after which a question is cut."""
    max_answer_length: int = 30
    """Questions: tokens of an answer at most."""
    document_context: bool = False
    """Tagging: read each sentence with those around it in its document, as far as they fit."""
    method: Method = "head"
    """head: a new head on the encoder. cloze: the task as a sentence with a blank, answered with the model's own words
    (PET, GLM); see docs/cloze.md. text: the model reads the item as a text and writes the answer (T5); see
    docs/text-to-text.md."""
    pattern: str = "0"
    """Cloze: which pattern, by its number; all: a model for each of them, and all of them together (PET)."""
    patterns: str = ""
    """Cloze: a YAML file of patterns and words, or the name of a shipped one; left out, those shipped for the task.
    Text: a YAML file that says how the task is put as text."""
    multi_token: MultiToken = "surest-first"
    """Cloze with BERT and RoBERTa: how a word of several tokens is scored in an answer, its masks filled one after the
    other (PET) or all in one pass, which is faster. Learning takes one pass."""
    mlm_weight: float = 0.0
    """Cloze with BERT and RoBERTa: what masked tokens of the texts count beside the labels (PET: 1e-4)."""
    unlabelled: str = ""
    """Cloze: a file in the form of the training data, labelled or not, whose texts are masked beside those."""
    distil: str = ""
    """Cloze, after --pattern all: a file in the form of the training data, labelled or not; a head on the same model
    learns what all patterns say of its texts (PET's last step), in OUT/distilled."""
    distil_epochs: float = 4.0
    """How often the texts of --distil are gone through (PET: 5,000 steps of 16 of 20,000 texts)."""
    max_target_length: int = 0
    """Writing: tokens of a written text at most. 0: 128, or fewer where the model has no room for so many."""
    blank: Blank = "mask"
    """Writing with a GLM: [MASK] behind the source, or [gMASK] where the vocabulary has it."""
    mixing_limit: int = 0
    """Several tasks at once: each is drawn in proportion to its training items, as if it had no more than these (T5:
    2^16 to 2^21); 0: no limit."""
    mixing_temperature: float = 1.0
    """Several tasks at once: above 1, small tasks are drawn more often, in proportion to items^(1/this) (T5: 2)."""
    label_smoothing: float = 0.0
    """Writing: the share of each right word that is spread over all words (GLM, UniLM: 0.1)."""
    pseudo_noise: float = 0.0
    """Writing with a UniLM v2: the share of pseudo masks that are something else while it learns, half of them a random
    token and half the token itself (released code: 0.2)."""
    target_noise: float = 0.0
    """Writing with a UniLM v2: the share of the target's tokens that it reads as what stands at their pseudo mask while
    it learns (released code: 0.4 to 0.8, by the task)."""
    beams: int = 1
    """Writing: how many ways of going on are followed at once (GLM: 5)."""
    length_penalty: float = 1.0
    """Writing: texts are ranked by log-probability ÷ length^this; 0 likes short ones, above 1 long ones."""
    no_repeat_ngram: int = 0
    """Writing: no run of so many tokens is written twice (UniLM, GLM: 3); 0 is no limit."""
    max_eval_samples: int = 200
    """Writing: so many items of the dev set, evenly spaced, are written while the model learns; all of them at the end.
    0: always all."""
    validation_split: float = 0.1
    """The share of the training items that is scored on where the data have no dev set; whole documents or articles."""
    max_train_samples: int = 0
    """Learn from so many of the training items only, drawn by the seed: few-shot runs, and with --grid the curve of
    scores over amounts of data. 0: all."""
    warmup: float = 0.1
    """Warm-up: a share of the steps when below 1, a number of steps otherwise."""
    schedule: Schedule = "linear"
    """How the learning rate decays after warm-up."""
    weight_decay: float = 0.01
    """Weight decay; biases and norms are left out."""
    max_grad_norm: float = 1.0
    """Largest norm of the gradient; 0 turns clipping off."""
    layer_decay: float = 1.0
    """Each layer learns at the rate of the one above it times this, the embeddings slowest (ULMFiT; 1: all alike)."""
    freeze: int = 0
    """So many of the lowest layers stay as they are, and the embeddings with them; -1: the whole encoder."""
    features: Features = "none"
    """Other than none, the encoder stays as it is and these layers of it are what the head reads."""
    head_on: HeadOn = "auto"
    """T5 and BART: whose states a head reads. encoder: it reads the item alone. auto: the encoder's for tags (as
    transformers' T5ForTokenClassification), the decoder's otherwise (as BART's authors)."""
    head: HeadKind = "linear"
    """What reads features: a linear layer, or two layers of a bidirectional LSTM before it; without --features the
    encoder below the LSTM learns with it (BERT, table 5)."""
    lstm_size: int = 768
    """Units of the LSTM in each direction."""
    lora_rank: int = 0
    """Above 0, only products of thin matrices of this rank learn beside the encoder's dense layers (LoRA), and the
    head; they like a higher rate (2e-4 to 1e-3)."""
    class_weights: ClassWeights = "none"
    """balanced: rare classes count as much as frequent ones."""
    eval_every: int = 0
    """Steps between scores on the dev set; 0 means twice an epoch."""
    patience: int = 0
    """Stop after this many scores without a better one; 0 means never."""
    from_scratch: bool = False
    """Draw the model's weights anew, as its pretraining did: what the pretraining is worth."""
    seed: int = 0
    """Of the order of the items, of the head's first weights, and of dropout."""
    micro_batch: int = 0
    """Items computed at once; 0 means all of a step. Without dropout the result is the same to rounding; dropout draws
    anew for each part."""
    precision: Precision = "auto"
    """Type of the matrix products; auto is bf16 where the processor has units for it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    threads: int = 0
    """CPU threads; 0: as OMP_NUM_THREADS says, else all cores that other programs leave free."""

    def problems(self) -> list[str]:
        """What is wrong with these options, a sentence each."""
        found = out_of_bounds(self, "--", dashes=True)
        found += self._cloze_problems()
        if self.method != "head":
            asked = {
                "features": self.features != "none",
                "head": self.head != "linear",
                "head-on": self.head_on != "auto",
            }
            found += [
                f"--method {self.method} answers with the model's own words, not with a head; leave out --{name}"
                for name, is_given in asked.items()
                if is_given
            ]
        if self.features != "none" and (self.lora_rank or self.freeze):
            found.append("--features leaves the encoder as it is; leave out --lora-rank and --freeze")
        if self.from_scratch and (self.lora_rank or self.freeze or self.features != "none"):
            found.append("--from-scratch needs weights that learn; leave out --lora-rank, --freeze and --features")
        if self.lora_rank and self.freeze:
            found.append("--lora-rank leaves the encoder's own weights as they are; leave out --freeze")
        return found

    def _cloze_problems(self) -> list[str]:
        """What is wrong with the options of the cloze."""
        found = []
        if self.pattern != "all" and not self.pattern.isdigit():
            found.append(f"--pattern is {self.pattern}; it must be a number from 0 on, or all")
        if self.method != "cloze":
            given = {
                "pattern": self.pattern != "0", "patterns": self.patterns and self.method == "head",
                "mlm-weight": self.mlm_weight, "multi-token": self.multi_token != "surest-first",
            }  # fmt: skip
            found += [
                f"--{name} is for --method cloze; add that, or leave it out" for name, one in given.items() if one
            ]
        if self.method != "head" and self.class_weights != "none":
            found.append("--class-weights is for --method head; leave one of the two out")
        if self.distil and (self.method != "cloze" or self.pattern != "all"):
            found.append("--distil learns from all patterns; add --method cloze --pattern all, or leave it out")
        if self.unlabelled and not self.mlm_weight:
            found.append("--unlabelled is read for masked tokens; give --mlm-weight as well, such as 1e-4")
        return found

    def steps(self, items: int) -> int:
        """Steps of the run for so many training items."""
        return max(1, round(self.epochs * -(-items // self.batch_size)))

    def train_options(self, items: int) -> TrainOptions:
        """What the loop is told, for so many training items."""
        steps = self.steps(items)
        evaluate = self.eval_every or max(1, -(-items // self.batch_size) // 2)
        return TrainOptions(
            steps=steps, batch_size=self.batch_size, micro_batch=self.micro_batch, lr=self.lr, schedule=self.schedule,
            warmup=self.warmup, weight_decay=self.weight_decay, max_grad_norm=self.max_grad_norm, eps=1e-8,
            precision=self.precision,
            device=self.device, threads=self.threads, eval_every=min(steps, evaluate), save_every=steps,
            sample_every=steps, patience=self.patience, save_total_limit=1, log_every=max(1, min(50, steps // 20)),
        )  # fmt: skip
