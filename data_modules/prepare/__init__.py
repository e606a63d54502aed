"""From a scan to a checked region of interest around the cavernous sinus."""
