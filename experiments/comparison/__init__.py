"""Joins, checks and draws the curves of several runs."""
