"""The bank of normal patches: how a coreset is selected, and how nearest patches are found."""
