"""Runs on real data, each one module."""
