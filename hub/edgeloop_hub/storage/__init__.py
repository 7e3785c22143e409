"""Where the hub keeps what it knows: a database with its schema and migrations, blobs, the data folder."""
