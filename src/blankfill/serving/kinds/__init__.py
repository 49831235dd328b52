"""What the jobs of a model compute, a file for each kind; all of it runs in the thread of the model."""
