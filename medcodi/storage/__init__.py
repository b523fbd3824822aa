"""The ground floor of every durable file: atomic writes, locks, hashes, tensors in files, and the resumable work folder."""
