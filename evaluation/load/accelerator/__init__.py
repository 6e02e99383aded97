"""What the engines take on an accelerator, on random checkpoints in the shapes of the published models."""
