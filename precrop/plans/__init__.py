"""Plans: their files, the networks that they build, and how they are displayed."""
