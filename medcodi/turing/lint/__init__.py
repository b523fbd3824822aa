"""The lint: attacks on a bundle that find whatever but the picture tells the arms apart."""
