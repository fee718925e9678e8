"""Stand-ins for other packages: programs written for them run by one changed import."""
