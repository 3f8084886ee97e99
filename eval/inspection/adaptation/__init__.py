"""Adapt the features of a frozen backbone to a user's own parts."""
