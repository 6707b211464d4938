"""Play inside world models in a browser: what is played, who plays, and the server of one page."""
