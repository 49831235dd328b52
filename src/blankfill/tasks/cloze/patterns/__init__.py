"""The shipped patterns, a YAML file for each task; `tasks.cloze.pattern` reads them and says how they are written."""
