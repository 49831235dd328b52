"""The shipped recipes, one YAML file each; `blankfill.recipe` reads them."""
