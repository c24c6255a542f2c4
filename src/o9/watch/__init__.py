"""Alert rules over all that O9 knows: facts read from the record, judged by one node for all, and of itself by each."""
