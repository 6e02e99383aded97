"""Quality: suites of cases for one domain, asked of any OpenAI-compatible endpoint and scored; speed is `load`'s."""
