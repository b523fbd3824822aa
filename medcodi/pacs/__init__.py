"""A hospital's servers: generated studies out through an outbox that loses nothing, studies in as prompts."""
