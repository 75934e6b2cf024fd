"""Fused forward passes and kernels for training and generation."""
