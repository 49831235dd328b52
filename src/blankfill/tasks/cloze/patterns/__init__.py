"""The shipped patterns, a YAML file for each task; `tasks.pattern` reads them and says how they are written."""
