"""Reports: quality and throughput of a folder on one page."""
