"""One reader of tables for all commands: CSV, TSV, JSON, JSON Lines, Parquet and spreadsheets, as rows of named cells.

`reading.open_table(path, options)` opens a table: its form, its columns, a sample, and `rows()`, which streams.
`options` has what a user may say, `columns` which column has which role, `prose` the paragraphs of a column of running
text. Not here: which roles a task has (`tasks.datasets.tabular`).
"""
