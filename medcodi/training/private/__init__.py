"""Differentially private training: patients drawn at random, their gradients bounded, noise added, and what it spends accounted."""
