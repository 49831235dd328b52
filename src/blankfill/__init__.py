"""blankfill: every pretraining objective blanks out text and asks for it back."""
