"""Images that the quickstart and the tests draw when there are no photographs."""
