"""Reports for people: overlays of each mask, and the pages of site, releaser and hub."""
