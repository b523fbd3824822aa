"""``medcodi serve``: one page to generate, edit and look, for several people at one model (extra ``web``)."""
