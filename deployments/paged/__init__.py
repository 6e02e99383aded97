"""The ragged paged forward pass that drafter and verifier share: block tables, attention over them, packed chunks."""
