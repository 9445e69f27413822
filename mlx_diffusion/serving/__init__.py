"""Requests over HTTP: one model answers many callers, by the interfaces that their programs speak."""
