"""Benchmarks that asv runs; see README.md beside this folder."""
