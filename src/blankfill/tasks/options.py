"""The options of fine-tuning, with the values of BERT (Devlin et al. 2019, A.3) and RoBERTa."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from blankfill.errors import Problem, setting
from blankfill.system.bounds import COUNT, SHARE, SOME, STEEPEST, Bound, above, at_least, below, out_of_bounds
from blankfill.training.options import Precision, TrainOptions
from blankfill.training.schedule import Schedule

ClassWeights = Literal["none", "balanced"]
Features = Literal["none", "last", "second-to-last", "sum-last-4", "concat-last-4", "weighted-sum"]
HeadKind = Literal["linear", "bilstm"]
Method = Literal["head", "cloze", "text"]
MultiToken = Literal["surest-first", "at-once"]
Blank = Literal["auto", "mask", "gmask"]
AnswerColumns = Literal["context", "all"]
HeadOn = Literal["auto", "encoder", "decoder"]


USUAL_LR, CHAT_LR, CHAT_LORA_LR = 3e-5, 1e-4, 1e-3
"""Learning rates where none is given: of tasks, of dialogues (ChatGLM-6B's own script for all weights), and of LoRA for
dialogues."""
PREFIX_LR, CHAT_PREFIX_LR = 2e-2, 1e-2
"""The same of a prefix, for tasks and for dialogues (THUDM/ChatGLM-6B, ptuning/train.sh and train_chat.sh)."""
PREFIX_DROPOUT = 0.1
WITHOUT_ADAPTER: dict[str, Any] = {
    "lora_rank": 0, "prefix_length": 0, "prefix_projection": False, "prefix_dropout": PREFIX_DROPOUT,
}  # fmt: skip
"""Options of a model without LoRA and prefix."""
MOST_BEAMS = 1024
"""Largest beam width."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """Options of a fine-tuning run."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(("epochs", "distil_epochs", "mixing_temperature"), above(0)),
        "lr": at_least(0.0),
        **dict.fromkeys(("batch_size", "stride", "max_query_length", "max_answer_length"), SOME),
        **dict.fromkeys(
            ("max_length", "embedding_lr_multiplier", "warmup", "weight_decay", "max_grad_norm", "eval_every",
             "patience", "micro_batch", "max_train_samples", "mlm_weight", "max_target_length", "mixing_limit",
             "no_repeat_ngram", "max_eval_samples", "max_prompt_length"), COUNT
        ),
        "replay_ratio": below(1),
        "beams": at_least(1, MOST_BEAMS),
        "length_penalty": Bound(-STEEPEST, STEEPEST),
        "label_smoothing": below(1),
        **dict.fromkeys(("pseudo_noise", "target_noise"), SHARE),
        "validation_split": Bound(0, 1, above=True, below=True),
        "layer_decay": above(0, 1),
        "freeze": at_least(-1),
        "lstm_size": at_least(1, 2**16),
        "lora_rank": at_least(0, 2**16),
        "prefix_length": at_least(0, 2**16),
        "prefix_dropout": below(1),
    }  # fmt: skip

    lr: float = 0.0
    """Peak learning rate; usually 1e-5 to 5e-5 (BERT: 2e-5, 3e-5 or 5e-5). 0: 3e-5, with a prefix 2e-2; for dialogues
    1e-4 (ChatGLM-6B), with LoRA 1e-3, with a prefix 1e-2."""
    embedding_lr_multiplier: float = 0.0
    """Learning rate of the token embeddings as a multiple of lr. 0: the multiplier that the model was pretrained with;
    1 for imported models."""
    batch_size: int = 32
    """Examples per optimiser step; usually 16 or 32."""
    epochs: float = 3.0
    """Passes over the training examples; fractions count. Usually 2 to 4."""
    max_length: int = 0
    """Maximum length of an example in tokens, special tokens included; longer texts are truncated and counted. 0: the
    model's maximum."""
    allow_unknown: bool = False
    """Continue although the model's tokenizer does not know more than 5% of the tokens of the training texts."""
    stride: int = 128
    """Questions: tokens between the starts of consecutive windows of a long context."""
    max_query_length: int = 64
    """Questions: maximum length of a question in tokens; longer questions are truncated."""
    max_answer_length: int = 30
    """Questions: maximum length of an answer in tokens."""
    answer_columns: AnswerColumns = "context"
    """Questions: columns among which training and prediction search the answer. context: [CLS] and the context, every
    span of it. all: every column of the window, and of each window only the spans between its 20 best starts and its 20
    best ends, as transformers' run_qa."""
    document_context: bool = False
    """Tagging: read each sentence together with its neighbours in the document, as far as they fit."""
    method: Method = "head"
    """Method of prediction. head: a new classification head. cloze: the task as a sentence with a blank, filled by
    the language-model head (PET, GLM); see docs/cloze.md. text: the model reads the example as text and generates the
    answer (T5); see docs/text-to-text.md."""
    pattern: str = "0"
    """Cloze: number of the pattern; all: a model for each pattern, and their ensemble (PET)."""
    patterns: str = ""
    """Cloze: a YAML file of patterns and verbalizers, or the name of a shipped one; without it, those shipped for the
    task. Text: a YAML file with the input format of the task."""
    multi_token: MultiToken = "surest-first"
    """Cloze with BERT and RoBERTa: how an answer of several tokens is scored. surest-first: its masks are filled one
    after the other (PET); at-once: in one pass, which is faster. Training uses one pass."""
    mlm_weight: float = 0.0
    """Cloze with BERT and RoBERTa: weight of an auxiliary masked-language-model loss (PET: 1e-4); 0: off."""
    unlabelled: str = ""
    """Cloze: a file in the format of the training data, labelled or not, whose texts join the masked-language-model
    loss."""
    distil: str = ""
    """Cloze with --pattern all: a file in the format of the training data, labelled or not. A classification head is
    trained on the soft labels that the ensemble gives its texts (the last step of PET), in OUT/distilled."""
    distil_epochs: float = 4.0
    """Passes over the texts of --distil (PET: 5,000 steps of 16 of 20,000 texts)."""
    max_target_length: int = 0
    """Generation: maximum length of a generated text in tokens; usually 32 to 256. 0: 128, or less where the model has
    fewer positions."""
    blank: Blank = "auto"
    """Generation with GLM: blank token that follows the source, [MASK] or, where the vocabulary has it, [gMASK]. auto:
    [gMASK] for ChatGLM and GLM-130B, otherwise [MASK]."""
    mixing_limit: int = 0
    """Several tasks: each task is sampled in proportion to its number of examples, capped at this number (T5: 2^16 to
    2^21); 0: no cap."""
    mixing_temperature: float = 1.0
    """Several tasks: sampling temperature; above 1, small tasks are sampled more often (T5: 2)."""
    label_smoothing: float = 0.0
    """Generation: probability mass spread over all tokens in place of the target (GLM, UniLM: 0.1)."""
    pseudo_noise: float = 0.0
    """Generation with UniLM v2: fraction of pseudo masks that are replaced in training, half of them by a random token
    and half by the token itself (released code: 0.2)."""
    target_noise: float = 0.0
    """Generation with UniLM v2: fraction of target tokens that the model reads as the token at their pseudo mask in
    training (released code: 0.4 to 0.8, by task)."""
    template: str = ""
    """Dialogues: chat template that writes them out: chatglm, plain, plain-zh, or a Jinja file as transformers'
    chat_template; stored with the model. Without it, that of the model's folder, else that of its objective:
    chatglm for ChatGLM, otherwise plain."""
    max_prompt_length: int = 0
    """Dialogues: maximum length of the text before an answer in tokens; older rounds are left out first. 0: what a row
    holds beside the answer."""
    learn_start: bool = True
    """Dialogues with ChatGLM: learn <sop> at [gMASK] too, as ChatGLM-6B's own fine-tuning does."""
    replay: str = ""
    """Dialogues: old text, a file, a folder, a prepared corpus or a pretraining run, whose loss is measured before and
    after the training (the forgetting report), and which --replay-ratio mixes in."""
    replay_ratio: float = 0.0
    """Dialogues: share of rows of the old text in each step, and its share of the loss; usually 0.1 to 0.3. 0: only
    measured."""
    beams: int = 1
    """Generation: beam width; 1 is greedy search. Usually 4 or 5."""
    length_penalty: float = 1.0
    """Generation: beams are ranked by log-probability / length^penalty; below 1 favours short texts, above 1 long
    texts."""
    no_repeat_ngram: int = 0
    """Generation: no n-gram of this size occurs twice in a text (UniLM, GLM: 3); 0: no limit."""
    max_eval_samples: int = 200
    """Generation: dev examples, evenly spaced, that are generated at each evaluation during training; the final
    evaluation uses all. Dialogues: those that are generated before and after the training. 0: always all."""
    validation_split: float = 0.1
    """Fraction of the training examples used for validation where a data set has no dev set; whole documents or
    articles."""
    test_split: str = ""
    """Test set that chooses nothing and is scored once, at the end, with the chosen checkpoint: a fraction of the
    training examples, such as 0.1 (whole documents or articles, the same for every seed), or the name of a labelled
    split of the data, such as test. Without it there is none."""
    max_train_samples: int = 0
    """Maximum number of training examples, drawn by the seed, for few-shot runs and learning curves; 0: all."""
    warmup: float = 0.1
    """Duration of the linear warm-up of the learning rate: a fraction of all steps when below 1, else a number of
    steps. Usually 0.06 to 0.1."""
    schedule: Schedule = "linear"
    """Learning-rate decay after warm-up. 1-sqrt: one minus the square root of the share of the decay that is past."""
    weight_decay: float = 0.01
    """Decoupled weight decay, not applied to biases, norms and prefixes; usually 0.01."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm when theirs is larger; usually 1.0. 0: no clipping."""
    layer_decay: float = 1.0
    """Learning rate of each layer as a fraction of that of the layer above; embeddings learn slowest (ULMFiT). Usually
    0.8 to 1; 1: equal rates."""
    freeze: int = 0
    """Number of lowest layers to freeze, together with the embeddings; -1: the whole encoder."""
    features: Features = "none"
    """Freeze the encoder and give the head these of its layers; none: train the encoder."""
    head_on: HeadOn = "auto"
    """T5 and BART: states that a head reads. auto: the encoder's for tagging (as transformers'
    T5ForTokenClassification), the decoder's otherwise (as BART's authors)."""
    head: HeadKind = "linear"
    """Classification head: a linear layer, or a two-layer bidirectional LSTM and a linear layer (BERT, table 5)."""
    lstm_size: int = 768
    """Units of the LSTM head in each direction."""
    lora_rank: int = 0
    """Rank of LoRA matrices beside the encoder's dense layers, which are frozen; usually 8 to 64 with a learning rate
    of 2e-4 to 1e-3. 0: no LoRA."""
    prefix_length: int = 0
    """Number of learnt keys and values before those of the text in every layer of the model, which is frozen (P-tuning
    v2); ChatGLM-6B: 128. 0: no prefix."""
    prefix_projection: bool = False
    """Make the prefix from an embedding by two dense layers, as prefix-tuning does; off in P-tuning v2."""
    prefix_dropout: float = PREFIX_DROPOUT
    """Fraction of the prefix's numbers that are dropped in training; ChatGLM-6B: 0.1."""
    class_weights: ClassWeights = "none"
    """Weights of classes in the loss. balanced: inversely proportional to their frequency."""
    eval_every: int = 0
    """Steps between evaluations on the dev set; 0: two per epoch."""
    patience: int = 0
    """Stop after this number of evaluations without improvement; 0: never."""
    from_scratch: bool = False
    """Initialise the model's weights randomly, as a baseline without pretraining."""
    seed: int = 0
    """Seed of the order of examples, of the head's initial weights and of dropout."""
    micro_batch: int = 0
    """Examples computed at once; smaller values need less memory. 0: the whole batch. Without dropout the result is the
    same up to rounding; dropout masks differ."""
    precision: Precision = "auto"
    """Number type of matrix products. auto: bf16 where the device has units for it, else fp32. fp16 scales the loss."""
    device: str = "auto"
    """Device to compute on: auto (a GPU where there is one), cpu, cuda, cuda:1 or mps."""
    threads: int = 0
    """CPU threads. 0: OMP_NUM_THREADS where it is set, else all cores that other programs leave free."""

    @property
    def peak_lr(self) -> float:
        """The learning rate, the usual one where none is given."""
        return self.lr or (PREFIX_LR if self.prefix_length else USUAL_LR)

    def for_kind(self, kind: str) -> FinetuneOptions:
        """Return the options with the usual learning rate of a kind of task and of the weights that learn, where none
        is given."""
        if self.lr:
            return self
        if kind != "chat":
            return replace(self, lr=self.peak_lr)
        if self.prefix_length:
            return replace(self, lr=CHAT_PREFIX_LR)
        return replace(self, lr=CHAT_LORA_LR if self.lora_rank else CHAT_LR)

    def problems(self) -> list[str]:
        """Return a sentence for each impossible option."""
        own = (*self._test_problems(), *self._cloze_problems(), *self._head_problems(), *self._replay_problems())
        return out_of_bounds(self) + [Problem(sentence) for sentence in own]

    @property
    def test_fraction(self) -> float | None:
        """Fraction of the training examples that is the test set; None without one, and for a named split."""
        try:
            return float(self.test_split)
        except ValueError:
            return None

    def _test_problems(self) -> Iterator[str]:
        """Yield a sentence for an impossible test set."""
        fraction = self.test_fraction
        if fraction is not None and not 0 < fraction < 1:
            yield (
                f"{setting('test_split')} is {self.test_split}; it must be a fraction above 0 and below 1, or the name "
                "of a split"
            )

    def _replay_problems(self) -> Iterator[str]:
        """Yield a sentence for a share of no old text."""
        if self.replay_ratio and not self.replay:
            yield f"{setting('replay_ratio')} needs the old text; name it with {setting('replay')}"

    def _head_problems(self) -> Iterator[str]:
        """Yield a sentence for each impossible option of the head and of trained weights."""
        frozen = {"lora_rank": self.lora_rank, "prefix_length": self.prefix_length, "freeze": self.freeze}
        if self.method != "head":
            given = {
                "features": self.features != "none",
                "head": self.head != "linear",
                "head_on": self.head_on != "auto",
                "answer_columns": self.answer_columns != "context",
            }
            for name in (name for name, is_given in given.items() if is_given):
                yield (
                    f"{setting('method', self.method)} answers with the model's own words, not with a head; "
                    f"leave out {setting(name)}"
                )
        if self.features != "none" and any(frozen.values()):
            yield (
                f"{setting('features')} freezes the encoder; leave out {setting('lora_rank')}, "
                f"{setting('prefix_length')} and {setting('freeze')}"
            )
        if self.from_scratch and (any(frozen.values()) or self.features != "none"):
            yield (
                f"{setting('from_scratch')} needs weights that learn; leave out {setting('lora_rank')}, "
                f"{setting('prefix_length')}, {setting('freeze')} and {setting('features')}"
            )
        for name in ("lora_rank", "prefix_length"):
            if frozen[name] and self.freeze:
                yield f"{setting(name)} freezes the encoder's own weights; leave out {setting('freeze')}"
        if self.lora_rank and self.prefix_length:
            yield f"{setting('lora_rank')} and {setting('prefix_length')} exclude each other; leave one of the two out"
        given = {"prefix_projection": self.prefix_projection, "prefix_dropout": self.prefix_dropout != PREFIX_DROPOUT}
        for name in (name for name, is_given in given.items() if is_given and not self.prefix_length):
            yield f"{setting(name)} is for a prefix; add {setting('prefix_length', 128)}, or leave it out"

    def _cloze_problems(self) -> Iterator[str]:
        """Yield a sentence for each impossible option of the cloze."""
        if self.pattern != "all" and not self.pattern.isdigit():
            yield f"{setting('pattern')} is {self.pattern}; it must be a number from 0 on, or all"
        if self.method != "cloze":
            given = {
                "pattern": self.pattern != "0", "patterns": self.patterns and self.method == "head",
                "mlm_weight": self.mlm_weight, "multi_token": self.multi_token != "surest-first",
            }  # fmt: skip
            for name in (name for name, is_given in given.items() if is_given):
                yield f"{setting(name)} is for {setting('method', 'cloze')}; add that, or leave it out"
        if self.method != "head" and self.class_weights != "none":
            yield f"{setting('class_weights')} is for {setting('method', 'head')}; leave one of the two out"
        if self.distil and (self.method != "cloze" or self.pattern != "all"):
            yield (
                f"{setting('distil')} learns from all patterns; add {setting('method', 'cloze')} "
                f"{setting('pattern', 'all')}, or leave it out"
            )
        if self.unlabelled and not self.mlm_weight:
            yield (
                f"{setting('unlabelled')} is read for masked tokens; give {setting('mlm_weight')} as well, such as 1e-4"
            )

    def steps(self, items: int) -> int:
        """Return the number of steps of a run with this number of training items."""
        return max(1, round(self.epochs * -(-items // self.batch_size)))

    def train_options(self, items: int) -> TrainOptions:
        """Return the options of the training loop for a number of training items."""
        steps = self.steps(items)
        evaluate = self.eval_every or max(1, -(-items // self.batch_size) // 2)
        return TrainOptions(
            steps=steps, batch_size=self.batch_size, micro_batch=self.micro_batch, lr=self.peak_lr,
            schedule=self.schedule, warmup=self.warmup, weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm, eps=1e-8, precision=self.precision,
            device=self.device, threads=self.threads, eval_every=min(steps, evaluate), save_every=steps,
            sample_every=steps, patience=self.patience, save_total_limit=1, log_every=max(1, min(50, steps // 20)),
        )  # fmt: skip
