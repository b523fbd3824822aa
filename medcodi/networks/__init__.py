"""The networks: prompt encoders, autoencoders, denoisers and environment encoders, each with its config beside it."""
