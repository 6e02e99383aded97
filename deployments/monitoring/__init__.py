"""Dashboard and alerts as code: expressions over the metrics that Ray's agents export, and what is built of them."""
