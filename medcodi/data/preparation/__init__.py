"""From a source to a prepared dataset: planned in shards, written by several processes, resumed after a kill, listed in a ledger."""
