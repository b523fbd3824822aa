"""Whether synthetic studies are useful: tasks trained with and without them, under the same rules, tested on real studies."""
