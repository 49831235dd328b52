"""The shipped recipes, one YAML file each; `blankfill.config.recipe` reads them."""
