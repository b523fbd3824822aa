"""Design of a reader study: its config, kinds of task, the two arms, the items drawn from them, and the blinding of both."""
