"""Stock clients against sampand: they notice nothing."""
