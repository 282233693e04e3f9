"""Worked examples for a pencil: each stage by the core's own lines, step by step, and a run, one step a screen."""
