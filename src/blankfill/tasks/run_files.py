"""What the files of a fine-tuning run are called."""

CONFIG = "finetune.json"
"""The task, data and options of the run."""
RESULTS = "results.json"
"""The scores; of a folder of several runs, those of all."""
PREDICTIONS = "predictions.jsonl"
"""What the best checkpoint says of the dev set, a JSON object a line."""
