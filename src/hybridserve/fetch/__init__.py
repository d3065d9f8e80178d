"""Download the files of one pinned commit with `huggingface_hub`, check every file, resume interrupted downloads.

The file list of the commit gives a checksum for each file (sha256 for LFS files, the git blob id for small ones), so a
mirror can deliver the right bytes or an error, nothing else.
"""
