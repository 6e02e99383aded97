"""Built-in suites: `NAME.yaml`, or `NAME.py` with `SUITE` or `suite()`; `load_suite("NAME")` finds them."""
