"""What `outrider doctor` looks at, one kind of thing per file."""
