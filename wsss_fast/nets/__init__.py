"""Networks, each in a file of its own. Importing this package imports none of them."""
