"""Stock blocks of ultralytics, written out for pruning, and how they are put right afterwards."""
