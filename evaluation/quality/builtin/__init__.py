"""What the built-in suites are made of, and the proof that the pocket models were not trained on them."""
