"""Input pipelines, among them a default that needs no download."""
