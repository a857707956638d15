"""What the `scimeta` command does for each domain: thin layers over the package, and what they say and draw."""
