"""Weights onto a disk: the files of one pinned commit, each checked, resumed where a download broke off.

The commit's own listing says what each file is (sha256 for large files, git's blob id for small ones), so that nothing
is believed because of where it came from: a mirror can only deliver the right bytes or an error.
"""
