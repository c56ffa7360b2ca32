"""How good a tokenizer is: metrics, the loop over scans, and the pictures that show it."""
