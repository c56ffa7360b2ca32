"""LiDAR tokenizer of CoPilot4D (ICLR 2024): points to discrete tokens and back to depth."""

__version__ = "0.1.0"
