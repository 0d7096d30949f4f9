"""Formats of annotations that other tools read and write, one file each."""
