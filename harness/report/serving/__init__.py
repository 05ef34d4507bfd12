"""What a viewer of a stream and its operator get, from the raw chunk times in records."""
