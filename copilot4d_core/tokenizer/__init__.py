"""The model. Read `tokenizer.py` first; every other file is one stage of it."""
