"""Families: published architectures, each in one file, and what is common to their checkpoints.

`FAMILIES` maps the name of a recipe to a `FamilySpec`. Nothing here imports torch before weights are converted.
"""

from blankfill.families.registry import (
    FAMILIES,
    default_family,
    register_family,
    weight_names,
    weight_names_by_type,
)
from blankfill.families.spec import FamilySpec

__all__ = [
    "FAMILIES",
    "FamilySpec",
    "default_family",
    "register_family",
    "weight_names",
    "weight_names_by_type",
]
