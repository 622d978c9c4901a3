"""One file for each tool; each is run in a fresh process and prints one line of JSON."""
