"""Names of the files of a fine-tuning run."""

CONFIG = "finetune.json"
"""The task, data and options of the run."""
RESULTS = "results.json"
"""The scores; of a folder of several runs, those of all."""
PREDICTIONS = "predictions.jsonl"
"""Predictions of the best checkpoint for the dev set, one JSON object on each line."""
