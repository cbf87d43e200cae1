"""Reading untrusted files: folders, zips, gzip, and file types by content. Independent of domains and torch."""
