"""Whether synthetic studies are useful, private and marked."""
