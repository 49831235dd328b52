"""Prompted data sets: tables of the user's, written out by templates as a text and its answer, among the training rows
(multi-task instruction pretraining; GLM-130B, Zeng et al. 2022, section 2.2)."""
