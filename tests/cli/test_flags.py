"""Every option of every command, written down: adding one is a decision, made here.

The lists of `fill` and `generate` stand in tests/generate, that of `prepare` in tests/corpus.
"""

import re
import subprocess
import sys
from dataclasses import fields

import pytest

from blankfill.corpus.options import PrepareConfig
from blankfill.families.options import ModelOptions
from blankfill.objectives import OBJECTIVES
from blankfill.training.options import DistilOptions, TrainOptions

MASKING = "length mask_ratio mask_share random_share validation_mask_ratio"
SECTIONS = {
    PrepareConfig: "encoding delimiter sheet columns documents strip tokenizer vocab_size vocab_exact lowercase "
    "strip_accents allow_unknown dedup validation min_chars workers",
    ModelOptions: "family hidden_size num_layers num_heads head_size encoder_layers ffn_size embedding_size shared "
    "norm init init_std positions dropout attention_dropout vocab_multiple",
    TrainOptions: "steps batch_size micro_batch batch_size_start batch_size_warmup batch_size_increment phase1_length "
    "phase1_steps optimizer momentum lr embedding_lr_multiplier embedding_gradient_shrink schedule warmup "
    "warmup_lr constant_steps decay_steps schedule_unit min_lr weight_decay decay_all beta1 beta2 eps z_loss "
    "max_grad_norm precision gradient_checkpointing device threads workers log_every eval_every eval_rows "
    "save_every save_total_limit patience sample_every samples hidden_words",
    DistilOptions: "temperature soft_weight lm_weight hidden_weight over start layers",
    OBJECTIVES["bert"]: f"{MASKING} max_predictions whole_word next_sentence pairs short",
    OBJECTIVES["mlm"]: f"{MASKING} whole_word across_documents mask_specials position_offset",
    OBJECTIVES["unilm"]: f"{MASKING} both sequence left right max_predictions ngram_share next_sentence short",
    OBJECTIVES["unilm2"]: f"{MASKING} span_share",
    OBJECTIVES["albert"]: f"{MASKING} max_predictions ngram whole_word sentence_order sole_random short",
    OBJECTIVES["spanbert"]: f"{MASKING} geometric longest whole_word boundary",
    OBJECTIVES["ernie"]: f"{MASKING} basic phrase entity phrases entities next_sentence short task_types task",
    OBJECTIVES["glm"]: "length token sentence document mask_ratio sentence_ratio mean_span document_ratio "
    "document_inside task_mask shuffle block_mask context_mask short joined",
    OBJECTIVES["chatglm"]: "length gmask_share document_ratio mask_ratio mean_span mask_length single_span shuffle "
    "short gmask_positions",
    OBJECTIVES["gpt"]: "length documents",
    OBJECTIVES["t5"]: "length variant mask_ratio mean_span random_share",
    OBJECTIVES["bart"]: "length mask_ratio poisson replace whole_word insert_ratio permute rotate position_offset",
    OBJECTIVES["xlnet"]: "length share whole_word permuted pairs memory short",
}

TABULAR = {
    "pretrain": {
        "recipe",
        "out",
        "resume",
        "stop-after",
        "on-nan",
        "from",
        "add-tokens",
        "replay",
        "replay-ratio",
        "teacher",
        "verify",
        "no-verify",
        "threads",
        "seed",
    },
    "show": {
        "recipe",
        "out",
        "example",
        "png",
        "width",
        "font",
        "seed",
        "all",
        "no-all",
        "html",
        "text",
        "tokenizer",
        "model",
        "chat",
        "template",
    },
}

COMMON = {"json", "quiet", "debug", "help"}
"""Options of every command."""

PLAIN = {
    "finetune": {
        "allow-unknown",
        "no-allow-unknown",
        "lr",
        "batch-size",
        "epochs",
        "max-length",
        "stride",
        "max-query-length",
        "max-answer-length",
        "answer-columns",
        "document-context",
        "no-document-context",
        "method",
        "pattern",
        "patterns",
        "mlm-weight",
        "unlabelled",
        "multi-token",
        "distil",
        "distil-epochs",
        "max-target-length",
        "template",
        "max-prompt-length",
        "learn-start",
        "no-learn-start",
        "replay",
        "replay-ratio",
        "blank",
        "label-smoothing",
        "pseudo-noise",
        "target-noise",
        "mixing-limit",
        "mixing-temperature",
        "beams",
        "length-penalty",
        "no-repeat-ngram",
        "max-eval-samples",
        "validation-split",
        "max-train-samples",
        "test-split",
        "warmup",
        "schedule",
        "weight-decay",
        "max-grad-norm",
        "layer-decay",
        "embedding-lr-multiplier",
        "freeze",
        "class-weights",
        "eval-every",
        "patience",
        "from-scratch",
        "no-from-scratch",
        "seed",
        "micro-batch",
        "precision",
        "device",
        "threads",
        "task",
        "data",
        "from",
        "out",
        "resume",
        "columns",
        "encoding",
        "delimiter",
        "sheet",
        "grid",
        "lora-rank",
        "prefix-length",
        "prefix-projection",
        "no-prefix-projection",
        "prefix-dropout",
        "features",
        "head",
        "head-on",
        "lstm-size",
        "num-seeds",
    },
    "predict": {
        "allow-unknown",
        "no-allow-unknown",
        "model",
        "adapter",
        "data",
        "columns",
        "encoding",
        "delimiter",
        "sheet",
        "split",
        "task",
        "submission",
        "no-submission",
        "out",
        "device",
        "threads",
        "n-best",
        "beams",
        "length-penalty",
        "no-repeat-ngram",
    },
    "evaluate": {
        "allow-unknown",
        "no-allow-unknown",
        "model",
        "task",
        "data",
        "columns",
        "encoding",
        "delimiter",
        "sheet",
        "split",
        "na-prob-file",
        "window",
        "stride",
        "both-ways",
        "no-both-ways",
        "limit",
        "seed",
        "out",
        "dtype",
        "device",
        "threads",
    },
    "chat": {
        "model",
        "adapter",
        "template",
        "system",
        "messages",
        "allow-unknown",
        "no-allow-unknown",
        "max-new-tokens",
        "max-length",
        "temperature",
        "top-k",
        "top-p",
        "repetition-penalty",
        "no-repeat-ngram",
        "process",
        "no-process",
        "seed",
        "dtype",
        "device",
        "threads",
    },
    "serve": {
        "model",
        "adapter",
        "host",
        "port",
        "api-key",
        "api-key-file",
        "cors-origins",
        "allowed-hosts",
        "max-body-mib",
        "max-texts",
        "max-tokens",
        "max-new-tokens",
        "max-queue",
        "request-timeout",
        "shutdown-timeout",
        "batch-tokens",
        "slots",
        "log-texts",
        "no-log-texts",
        "workers",
        "threads",
        "dtype",
        "device",
        "force",
        "no-force",
    },
    "import": {
        "out",
        "tokenizer",
        "heads",
        "dtype",
        "leave-out",
        "qkv",
        "drop-image-rows",
        "no-drop-image-rows",
        "rotary-rounding",
        "threads",
    },
    "export": {
        "out",
        "format",
        "type",
        "pooling",
        "reduce-range",
        "no-reduce-range",
        "force",
        "no-force",
        "lora",
        "part",
        "shards",
        "text",
        "threads",
    },
    "quantize": {
        "model",
        "out",
        "bits",
        "rounding",
        "text",
        "data",
        "max-loss",
        "min-cosine",
        "gate-rows",
        "gate-seconds",
        "force",
        "no-force",
        "dtype",
        "group-size",
        "scheme",
        "method",
        "embeddings",
        "target-size",
        "activations",
        "calibration",
        "calibration-rows",
        "seed",
        "threads",
    },
    "compare": {"out", "csv", "curves", "svg", "metric", "x"},
}
"""Commands without a recipe."""


@pytest.mark.parametrize("schema", SECTIONS, ids=lambda schema: schema.__name__)
def test_the_options_of_a_recipe_are_frozen(schema: type) -> None:
    assert [field.name for field in fields(schema)] == SECTIONS[schema].split()


@pytest.mark.parametrize("command", TABULAR)
def test_the_flags_of_a_command_are_frozen(command: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "blankfill", command, "--help"], capture_output=True, text=True, check=True
    )
    flags = set(re.findall(r"(?<![\w-])--([a-z][a-z-]*)(?![\w.-])", run.stdout))
    assert flags == TABULAR[command] | COMMON
    assert {"--train.embedding-lr-multiplier", "--objective.document-ratio", "--model.num-layers"} <= set(
        re.findall(r"--[a-z]+\.[a-z-]+", run.stdout)
    )


@pytest.mark.parametrize("command", PLAIN)
def test_the_flags_of_a_plain_command_are_frozen(command: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "blankfill", command, "--help"], capture_output=True, text=True, check=True
    )
    assert set(re.findall(r"(?<![\w-])--([a-z][a-z-]*)(?![\w.-])", run.stdout)) == PLAIN[command] | COMMON
