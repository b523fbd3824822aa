"""The Visual Turing Test: blinded bundles for readers, a lint that attacks them, import, and statistics."""
