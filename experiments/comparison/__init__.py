"""Curves of several runs on one page: joined, checked, put into figures and tables."""
