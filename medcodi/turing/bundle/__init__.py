"""The blinded bundle: each reader's trials and files, the answer key, and the export that writes them."""
