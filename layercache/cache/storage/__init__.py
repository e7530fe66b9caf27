"""Storage backends: a local folder or an S3 prefix, behind one small protocol."""
