"""Running a trained tokenizer: the Runner contract, its implementations, and token files."""
