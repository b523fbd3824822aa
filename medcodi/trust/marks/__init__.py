"""Whether files say that they are generated, and whether they are as they were written: verification, and signed manifests (docs/PRIVACY.md)."""
