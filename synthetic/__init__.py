"""Pictures for the quickstart and the tests where there are no photographs: inspection parts, and scenes."""
