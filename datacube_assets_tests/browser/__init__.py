"""Tests that look at the UI as a person does, with a browser; they skip where none is installed."""
