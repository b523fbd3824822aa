"""DeepSpeed as an engine: its configuration, the engine itself, and what ZeRO-3 needs."""
