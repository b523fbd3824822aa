"""A reader study over HTTP: links with tokens, answers stored on the server as readers give them, a page of their progress."""
