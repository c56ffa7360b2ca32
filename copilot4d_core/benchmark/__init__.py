"""How fast each stage is, how fast it could be, and how fast the alternatives are."""
