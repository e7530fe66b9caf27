"""Sections of the page; each function maps the report data to a Section."""
