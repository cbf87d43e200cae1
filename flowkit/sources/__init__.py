"""Other people's files: folders, zips, gzip, and what each file is by its content. No domain and no torch here."""
