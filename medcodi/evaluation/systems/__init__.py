"""Systems under evaluation: our model generates, other systems' files are read; both end as shards of contents."""
