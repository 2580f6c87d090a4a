"""What came of a merge: plain data, and text made from it.  Reads results, decides nothing."""
