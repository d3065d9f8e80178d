"""Reading, parsing and rewriting a request."""
