"""Sessions and rounds: the router keeps every session's committed tokens and decides what is verified when."""
