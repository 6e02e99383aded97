"""The pocket models: a tiny Gemma 4 target, its MTP assistant and a small independent draft model."""
