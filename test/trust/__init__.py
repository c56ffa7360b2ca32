"""Tools that find out what the package survives: bad messages, bad files, long runs, killed recordings. Nothing here runs on a robot."""
